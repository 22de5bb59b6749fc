"""Programs that `expression_packages` runs, each in the environment of its package.

    PROGRAM IMAGES ANSWERS [ARGUMENT]

IMAGES holds uint8[n, 48, 48], grey faces. The program classifies them in order, after a first call that is not timed,
and writes to ANSWERS: {"answers": [the expression of each image in the package's words, null without one], "seconds":
of all calls that were timed, "timed": how many images those were, "parameters": number, "versions": {name: version}}.
"""
