// Expressions by @vladmandic/face-api: its faceExpressionNet, given each image as a face.

const path = require('path');
const peer = require('./peer.cjs');
const faceapi = require('@vladmandic/face-api/dist/face-api.node-wasm.js');

peer.run(async () => {
  const net = faceapi.nets.faceExpressionNet;
  await net.loadFromDisk(path.join(peer.folder('@vladmandic/face-api'), 'model'));
  return {
    expression: async (pixels) => (await net.predictExpressions(pixels)).asSortedArray()[0].expression,
    parameters: [net.faceFeatureExtractor, net]
      .flatMap((part) => part.getParamList())
      .reduce((sum, { tensor }) => sum + tensor.size, 0),
    name: '@vladmandic/face-api',
  };
});
