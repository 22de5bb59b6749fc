// What the programs in Node share: the protocol of __init__.py, on TensorFlow.js' WebAssembly backend.

const fs = require('fs');
const path = require('path');
const tf = require('@tensorflow/tfjs');
const wasm = require('@tensorflow/tfjs-backend-wasm');

const SIDE = 48;

const folder = (name) => path.join(__dirname, 'node_modules', name);
const version = (name) => JSON.parse(fs.readFileSync(path.join(folder(name), 'package.json'))).version;
const wasmPath = path.join(folder('@tensorflow/tfjs-backend-wasm'), 'dist') + path.sep;

async function answer(load) {
  const [images, answers, argument] = process.argv.slice(2);
  wasm.setWasmPaths(wasmPath);
  await tf.setBackend('wasm');
  await tf.ready();
  const { expression, parameters, name } = await load(argument);
  const bytes = fs.readFileSync(images);
  const number = bytes.length / SIDE ** 2;
  const expressions = [];
  let started = 0;
  for (let i = 0; i < number; i += 1) {
    if (i === 1) started = performance.now();
    const grey = Int32Array.from(bytes.subarray(i * SIDE ** 2, (i + 1) * SIDE ** 2));
    const pixels = tf.tidy(() => tf.tile(tf.tensor3d(grey, [SIDE, SIDE, 1], 'int32'), [1, 1, 3]));
    expressions.push(await expression(pixels));
    tf.dispose(pixels);
  }
  const seconds = (performance.now() - started) / 1000;
  const versions = {
    [name]: version(name),
    '@tensorflow/tfjs': tf.version.tfjs,
    backend: tf.getBackend(),
    node: process.version,
  };
  fs.writeFileSync(answers, JSON.stringify({ answers: expressions, seconds, timed: number - 1, parameters, versions }));
}

exports.folder = folder;
exports.wasmPath = wasmPath;
exports.run = (load) =>
  answer(load).catch((error) => {
    console.error(error);
    process.exit(1);
  });
