// Expressions by @vladmandic/human. The argument says from what:
//   detect  each image as it is: the package detects a face and crops it, or answers nothing
//   crops   its expression model, given each image as a face. The package has no call for that; the input is made as in
//           its src/gear/emotion.ts: 64x64 pixels, bilinear, grey, from -1 to 1

const fs = require('fs');
const path = require('path');
const peer = require('./peer.cjs');

const folder = peer.folder('@vladmandic/human');
const models = path.join(folder, 'models');
// By its path: this build is in the package's exports under a name that Node does not accept.
const { Human } = require(path.join(folder, 'dist', 'human.node-wasm.js'));
const base = 'http://models/';
const off = { enabled: false };

peer.run(async (way) => {
  // The package loads models with fetch, and Node's does not read files.
  globalThis.fetch = async (url) => new Response(fs.readFileSync(path.join(models, String(url).slice(base.length))));
  const human = new Human({
    backend: 'wasm',
    wasmPath: peer.wasmPath,
    modelBasePath: base,
    cacheSensitivity: 0, // by default the results of an image are reused for the next one if they differ little
    filter: off, // of canvases, which Node has none of
    gesture: off,
    body: off,
    hand: off,
    object: off,
    face: { iris: off, description: off },
  });
  await human.load();
  const { emotion } = human.models.models;
  const { tf } = human;

  async function detected(pixels) {
    const { face, error } = await human.detect(pixels);
    if (error) throw new Error(error);
    return face[0]?.emotion?.[0]?.emotion ?? null;
  }

  function classified(pixels) {
    const index = tf.tidy(() => {
      const resized = tf.image.resizeBilinear(tf.expandDims(tf.div(pixels, 255)), [64, 64], false);
      const grey = tf.sum(tf.mul(resized, tf.tensor1d([0.2989, 0.587, 0.114])), 3, true);
      return tf.argMax(emotion.execute(tf.mul(tf.sub(grey, 0.5), 2)), 1).dataSync()[0];
    });
    return ['angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral'][index];
  }

  return {
    expression: way === 'detect' ? detected : classified,
    parameters: Object.values(emotion.weights)
      .flat()
      .filter((weight) => weight.dtype === 'float32')
      .reduce((sum, weight) => sum + weight.size, 0),
    name: '@vladmandic/human',
  };
});
