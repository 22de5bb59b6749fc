#!/usr/bin/env bash
# The apostrophe that language models write costs two tokens more in transformers' CLIP tokenizer than in OpenAI's.
#
# Versions: transformers 5.24.0, open_clip_torch 3.3.0 (OpenAI's tokenizer), torch 2.13.0, ftfy 6.3.1, regex 2026.11.19,
# Python 3.11, Linux.
#
# Descriptions of expressions for CLIP are written by language models, most of which set "the person's brows" with the
# typographic apostrophe U+2019, and quotation marks likewise. OpenAI's tokenizer, with which CLIP was trained, makes
# them straight first (ftfy) and resolves HTML entities; CLIPTokenizer of transformers 5 does neither, also where ftfy
# is installed, which its slow predecessor used. Both have the same vocabulary and agree on all plain text, dashes and
# ellipses, so a test on "a photo of a {class}." sees nothing; but of a bank of descriptions every sentence with
# an apostrophe is other tokens: a mark of two pieces that CLIP hardly saw, and a lone "s" instead of "'s". So two
# implementations that load equal weights give unequal text features, and neither warns. What helps: ftfy's `fix_text`
# and `html.unescape` before transformers' tokenizer.
#
# Output seen (equal tokens or not, text, tokens of OpenAI's tokenizer / of transformers'):
#   equal: the person's brows are raised
#     the person 's brows are raised
#   equal: wide—open eyes…
#     wide âĢĶ open eyes âĢ¦
#   unequal: the person’s brows are raised
#     the person 's brows are raised
#     the person âĢ Ļ s brows are raised
#   unequal: a “social” smile
#     a " social " smile
#     a âĢ ľ social âĢ Ŀ smile
#   unequal: fear &amp; surprise
#     fear & surprise
#     fear & amp ; surprise
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.13.0 ftfy==6.3.1 regex==2026.11.19
"$folder/venv/bin/pip" install --quiet --no-deps open_clip_torch==3.3.0
cat > "$folder/probe.py" <<'EOF'
import gzip
import importlib.util
import json
import pathlib
import sys

import transformers

# By its path: the package itself imports image models that are of no use here.
folder = pathlib.Path(importlib.util.find_spec("open_clip").origin).parent
spec = importlib.util.spec_from_file_location("tokenizer", folder / "tokenizer.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
openai = module.SimpleTokenizer()

# The files that CLIPs on the hub have, from the vocabulary in open_clip's package.
out = pathlib.Path(sys.argv[1])
(out / "vocab.json").write_text(json.dumps(openai.encoder))
pairs = gzip.decompress((folder / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")[1 : 49152 - 256 - 1]
(out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
end = "<|endoftext|>"
hub = transformers.CLIPTokenizer(str(out / "vocab.json"), str(out / "merges.txt"), unk_token=end, pad_token=end)

for text in (
    "the person's brows are raised",
    "wide\u2014open eyes\u2026",
    "the person\u2019s brows are raised",
    "a \u201csocial\u201d smile",
    "fear &amp; surprise",
):
    ours, theirs = openai.encode(text), hub(text)["input_ids"][1:-1]
    print(f"{'equal' if ours == theirs else 'unequal'}: {text}")
    for ids in (ours,) if ours == theirs else (ours, theirs):
        print("  " + " ".join(openai.decoder[token].removesuffix("</w>") for token in ids))
EOF
"$folder/venv/bin/python" "$folder/probe.py" "$folder" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'EOF'
equal: the person's brows are raised
  the person 's brows are raised
equal: wide—open eyes…
  wide âĢĶ open eyes âĢ¦
unequal: the person’s brows are raised
  the person 's brows are raised
  the person âĢ Ļ s brows are raised
unequal: a “social” smile
  a " social " smile
  a âĢ ľ social âĢ Ŀ smile
unequal: fear &amp; surprise
  fear & surprise
  fear & amp ; surprise
EOF
