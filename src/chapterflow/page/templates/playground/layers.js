"use strict";
// The layers: forward passes that equal Keras', and the backward passes that Grad-CAM needs.
//
// A tensor is {shape, data}, without the batch axis: [height, width, channels], [units], or
// [nodes, features]. Sums are computed in double precision and stored as float32, as in Keras.

const size = (shape) => shape.reduce((a, b) => a * b, 1);
const tensor = (shape, data = new Float32Array(size(shape))) => ({ shape, data });

// Bytes of base64 -> the weights of one network. See `packed` in network.py.
async function unpack(text, planes) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = bytes.length / planes;
  const bits = new Uint32Array(count);
  for (let plane = 0; plane < planes; plane++) {
    const shift = 24 - 8 * plane;
    for (let i = 0; i < count; i++) bits[i] |= bytes[plane * count + i] << shift;
  }
  return new Float32Array(bits.buffer);
}

async function readNetwork(document) {
  const all = await unpack(document.weights, document.planes);
  let start = 0;
  const layers = document.layers.map((layer) => ({
    ...layer,
    weights: layer.weights.map((shape) => {
      const end = start + size(shape);
      const weight = tensor(shape, all.subarray(start, end));
      start = end;
      return weight;
    }),
  }));
  return { layers, byName: new Map(layers.map((layer) => [layer.name, layer])), output: document.output };
}

// Outputs of all layers by name, for the values of the input layers by name.
function forward(network, inputs) {
  const outputs = new Map();
  for (const layer of network.layers) {
    const given = layer.inputs.map((name) => outputs.get(name));
    outputs.set(
      layer.name,
      layer.type === "InputLayer" ? inputs[layer.name] : LAYERS[layer.type].forward(layer, given),
    );
  }
  return outputs;
}

// Gradients of one of the network's outputs in the output of each layer after (and of) `until`.
function backward(network, outputs, unit, until) {
  const gradients = new Map();
  const seed = tensor(outputs.get(network.output).shape);
  seed.data[unit] = 1;
  gradients.set(network.output, seed);
  for (const layer of [...network.layers].reverse()) {
    const gradient = gradients.get(layer.name);
    if (!gradient || layer.name === until || layer.type === "InputLayer") continue;
    const given = layer.inputs.map((name) => outputs.get(name));
    const parts = LAYERS[layer.type].backward(layer, given, outputs.get(layer.name), gradient);
    layer.inputs.forEach((name, i) => {
      const sum = gradients.get(name);
      if (sum) for (let k = 0; k < sum.data.length; k++) sum.data[k] += parts[i].data[k];
      else gradients.set(name, parts[i]);
    });
  }
  return gradients;
}

const ACTIVATIONS = {
  linear: { of: (x) => x, slope: () => 1 },
  relu: { of: (x) => (x > 0 ? x : 0), slope: (y) => (y > 0 ? 1 : 0) },
  tanh: { of: Math.tanh, slope: (y) => 1 - y * y },
  sigmoid: { of: (x) => 1 / (1 + Math.exp(-x)), slope: (y) => y * (1 - y) },
};

// `y` is overwritten with the activations of its values; softmax is over the last axis.
function activate(name, y) {
  if (name === "softmax") {
    const units = y.shape.at(-1);
    for (let i = 0; i < y.data.length; i += units) y.data.set(softmax(y.data.subarray(i, i + units)), i);
  } else if (name && name !== "linear") {
    const { of } = ACTIVATIONS[name];
    for (let i = 0; i < y.data.length; i++) y.data[i] = of(y.data[i]);
  }
  return y;
}

// The gradient before an activation, from the gradient after it and the activations.
function deactivate(name, y, gradient) {
  if (!name || name === "linear") return gradient;
  const before = tensor(y.shape);
  if (name === "softmax") {
    const units = y.shape.at(-1);
    for (let i = 0; i < y.data.length; i += units) {
      let mean = 0;
      for (let k = i; k < i + units; k++) mean += y.data[k] * gradient.data[k];
      for (let k = i; k < i + units; k++) before.data[k] = y.data[k] * (gradient.data[k] - mean);
    }
  } else {
    const { slope } = ACTIVATIONS[name];
    for (let i = 0; i < y.data.length; i++) before.data[i] = gradient.data[i] * slope(y.data[i]);
  }
  return before;
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

// Where the windows of a convolution or a pooling lie along one axis: the number of windows, and the
// margin before the input. "same" adds margins so that only the stride makes the output smaller.
function windows(side, kernel, stride, dilation, padding) {
  const reach = dilation * (kernel - 1) + 1;
  if (padding !== "same") return { count: Math.floor((side - reach) / stride) + 1, margin: 0 };
  const count = Math.ceil(side / stride);
  return { count, margin: Math.floor(Math.max((count - 1) * stride + reach - side, 0) / 2) };
}

// All about the windows of a layer: `each` calls `visit` with the offset of each output position and
// of each input position in its window, and with the position within the kernel.
function plan(layer, shape) {
  const { settings } = layer;
  const [kh, kw] = settings.kernel_size ?? settings.pool_size;
  const [sy, sx] = settings.strides ?? [kh, kw];
  const [dy, dx] = settings.dilation_rate ?? [1, 1];
  const [height, width] = shape;
  const rows = windows(height, kh, sy, dy, settings.padding);
  const columns = windows(width, kw, sx, dx, settings.padding);
  return {
    kernel: [kh, kw], stride: [sy, sx], dilation: [dy, dx], margin: [rows.margin, columns.margin],
    height: rows.count, width: columns.count,
    each(visit) {
      for (let y = 0; y < rows.count; y++)
        for (let x = 0; x < columns.count; x++)
          for (let ky = 0; ky < kh; ky++) {
            const iy = y * sy + ky * dy - rows.margin;
            if (iy < 0 || iy >= height) continue;
            for (let kx = 0; kx < kw; kx++) {
              const ix = x * sx + kx * dx - columns.margin;
              if (ix >= 0 && ix < width) visit(y * columns.count + x, iy * width + ix, ky * kw + kx);
            }
          }
    },
  };
}

// Convolution before bias and activation: kernel [kh, kw, channels in, filters].
function convolve(layer, x, kernel) {
  const windowed = plan(layer, x.shape);
  const channels = x.shape[2];
  const filters = kernel.shape[3];
  const sums = new Float64Array(windowed.height * windowed.width * filters);
  const weight = kernel.data;
  windowed.each((to, from, k) => {
    const out = to * filters;
    for (let c = 0; c < channels; c++) {
      const value = x.data[from * channels + c];
      if (value === 0) continue;
      const row = (k * channels + c) * filters;
      for (let f = 0; f < filters; f++) sums[out + f] += value * weight[row + f];
    }
  });
  return tensor([windowed.height, windowed.width, filters], sums);
}

function convolveBack(layer, x, kernel, gradient) {
  const channels = x.shape[2];
  const filters = kernel.shape[3];
  const back = tensor(x.shape);
  plan(layer, x.shape).each((to, from, k) => {
    for (let c = 0; c < channels; c++) {
      const row = (k * channels + c) * filters;
      let sum = 0;
      for (let f = 0; f < filters; f++) sum += gradient.data[to * filters + f] * kernel.data[row + f];
      back.data[from * channels + c] += sum;
    }
  });
  return back;
}

// One kernel for each channel: [kh, kw, channels, 1].
function convolveDepthwise(layer, x, kernel) {
  const windowed = plan(layer, x.shape);
  const channels = x.shape[2];
  const sums = new Float64Array(windowed.height * windowed.width * channels);
  windowed.each((to, from, k) => {
    for (let c = 0; c < channels; c++)
      sums[to * channels + c] += x.data[from * channels + c] * kernel.data[k * channels + c];
  });
  return tensor([windowed.height, windowed.width, channels], sums);
}

function convolveDepthwiseBack(layer, x, kernel, gradient) {
  const channels = x.shape[2];
  const back = tensor(x.shape);
  plan(layer, x.shape).each((to, from, k) => {
    for (let c = 0; c < channels; c++)
      back.data[from * channels + c] += gradient.data[to * channels + c] * kernel.data[k * channels + c];
  });
  return back;
}

// Sums [..., units], plus the bias where there is one, then the activation.
function finish(layer, sums, bias) {
  const units = sums.shape.at(-1);
  const y = tensor(sums.shape);
  for (let i = 0; i < y.data.length; i++) y.data[i] = sums.data[i] + (bias ? bias.data[i % units] : 0);
  return activate(layer.settings.activation, y);
}

// x [..., inputs] times kernel [inputs, units].
function multiply(x, kernel) {
  const [inputs, units] = kernel.shape;
  const rows = x.data.length / inputs;
  const sums = new Float64Array(rows * units);
  for (let r = 0; r < rows; r++)
    for (let i = 0; i < inputs; i++) {
      const value = x.data[r * inputs + i];
      if (value === 0) continue;
      for (let u = 0; u < units; u++) sums[r * units + u] += value * kernel.data[i * units + u];
    }
  return tensor([...x.shape.slice(0, -1), units], sums);
}

function multiplyBack(x, kernel, gradient) {
  const [inputs, units] = kernel.shape;
  const back = tensor(x.shape);
  for (let r = 0; r < x.data.length / inputs; r++)
    for (let i = 0; i < inputs; i++) {
      let sum = 0;
      for (let u = 0; u < units; u++) sum += gradient.data[r * units + u] * kernel.data[i * units + u];
      back.data[r * inputs + i] = sum;
    }
  return back;
}

// A layer that maps each value by itself: of(value, channel, layer) and its slope.
const pointwise = (of, slope) => ({
  forward(layer, [x]) {
    const channels = x.shape.at(-1);
    return tensor(x.shape, Float32Array.from(x.data, (value, i) => of(value, i % channels, layer)));
  },
  backward(layer, [x], y, gradient) {
    const channels = x.shape.at(-1);
    const each = (value, i) => value * slope(x.data[i], i % channels, layer);
    return [tensor(x.shape, Float32Array.from(gradient.data, each))];
  },
});

// Pooling over all positions.
const globally = (isMax) => ({
  forward(layer, [x]) {
    const channels = x.shape[2];
    const sums = new Float64Array(channels).fill(isMax ? -Infinity : 0);
    x.data.forEach((value, i) => {
      const c = i % channels;
      sums[c] = isMax ? Math.max(sums[c], value) : sums[c] + value;
    });
    const positions = isMax ? 1 : x.data.length / channels;
    return tensor([channels], Float32Array.from(sums, (sum) => sum / positions));
  },
  backward(layer, [x], y, gradient) {
    const channels = x.shape[2];
    // Equal maxima share the gradient, as in TensorFlow.
    const counts = new Uint32Array(channels);
    x.data.forEach((value, i) => (counts[i % channels] += !isMax || value === y.data[i % channels]));
    const each = (value, i) => {
      const c = i % channels;
      return !isMax || value === y.data[c] ? gradient.data[c] / counts[c] : 0;
    };
    return [tensor(x.shape, Float32Array.from(x.data, each))];
  },
});

// Pixels are areas: their centres are aligned, not the first and the last pixel.
function resized(x, height, width) {
  const channels = x.shape[2] ?? 1;
  const y = tensor([height, width, channels]);
  const axis = (count, side) =>
    Array.from({ length: count }, (_, i) => {
      const place = Math.min(Math.max(((i + 0.5) * side) / count - 0.5, 0), side - 1);
      const low = Math.floor(place);
      return [low, Math.min(low + 1, side - 1), place - low];
    });
  const columns = axis(width, x.shape[1]);
  axis(height, x.shape[0]).forEach(([top, bottom, down], i) =>
    columns.forEach(([left, right, along], j) => {
      for (let c = 0; c < channels; c++) {
        const at = (row, column) => x.data[(row * x.shape[1] + column) * channels + c];
        const upper = at(top, left) * (1 - along) + at(top, right) * along;
        const lower = at(bottom, left) * (1 - along) + at(bottom, right) * along;
        y.data[(i * width + j) * channels + c] = upper * (1 - down) + lower * down;
      }
    }),
  );
  return y;
}

// What degrees of A + I divide messages by: 1 / sqrt(1 + number of edges).
function inverseRoots(edges, nodes) {
  const degrees = [new Float64Array(nodes).fill(1), new Float64Array(nodes).fill(1)];
  for (const [source, target] of edges) {
    degrees[0][source]++;
    degrees[1][target]++;
  }
  return degrees.map((degree) => degree.map((count) => 1 / Math.sqrt(count)));
}

// Â x, with Â = D^-1/2 (A + I) D^-1/2: each node's own value and its neighbours', by degrees.
function spread(edges, x) {
  const [nodes, features] = x.shape;
  const [out, into] = inverseRoots(edges, nodes);
  const sums = new Float64Array(nodes * features);
  const add = (row, column) => {
    const factor = out[row] * into[column];
    for (let f = 0; f < features; f++) sums[row * features + f] += factor * x.data[column * features + f];
  };
  for (let node = 0; node < nodes; node++) add(node, node);
  for (const [source, target] of edges) add(source, target);
  return tensor(x.shape, sums);
}

const LAYERS = {
  Identity: { forward: (layer, [x]) => x, backward: (layer, given, y, gradient) => [gradient] },
  Rescaling: pointwise(
    (value, c, { settings }) => value * settings.scale + settings.offset,
    (value, c, { settings }) => settings.scale,
  ),
  // Its factor and summand for each channel are computed when the page is written.
  BatchNormalization: pointwise(
    (value, c, { weights }) => value * weights[0].data[c] + weights[1].data[c],
    (value, c, { weights }) => weights[0].data[c],
  ),
  ReLU: pointwise(
    (value, c, { settings }) => Math.min(Math.max(value, 0), settings.max_value ?? Infinity),
    (value, c, { settings }) => (value > 0 && value < (settings.max_value ?? Infinity) ? 1 : 0),
  ),
  Activation: {
    forward: (layer, [x]) => activate(layer.settings.activation, tensor(x.shape, x.data.slice())),
    backward: (layer, given, y, gradient) => [deactivate(layer.settings.activation, y, gradient)],
  },
  Softmax: {
    forward: (layer, [x]) => activate("softmax", tensor(x.shape, x.data.slice())),
    backward: (layer, given, y, gradient) => [deactivate("softmax", y, gradient)],
  },
  Flatten: {
    forward: (layer, [x]) => tensor([x.data.length], x.data),
    backward: (layer, [x], y, gradient) => [tensor(x.shape, gradient.data)],
  },
  Dense: {
    forward: (layer, [x]) => finish(layer, multiply(x, layer.weights[0]), layer.weights[1]),
    backward(layer, [x], y, gradient) {
      return [multiplyBack(x, layer.weights[0], deactivate(layer.settings.activation, y, gradient))];
    },
  },
  Conv2D: {
    forward: (layer, [x]) => finish(layer, convolve(layer, x, layer.weights[0]), layer.weights[1]),
    backward(layer, [x], y, gradient) {
      const before = deactivate(layer.settings.activation, y, gradient);
      return [convolveBack(layer, x, layer.weights[0], before)];
    },
  },
  DepthwiseConv2D: {
    forward(layer, [x]) {
      return finish(layer, convolveDepthwise(layer, x, layer.weights[0]), layer.weights[1]);
    },
    backward(layer, [x], y, gradient) {
      const before = deactivate(layer.settings.activation, y, gradient);
      return [convolveDepthwiseBack(layer, x, layer.weights[0], before)];
    },
  },
  SeparableConv2D: {
    // A kernel for each channel, then a 1x1 convolution across the channels.
    forward(layer, [x]) {
      const [depthwise, across, bias] = layer.weights;
      const kernel = tensor(across.shape.slice(2), across.data);
      return finish(layer, multiply(convolveDepthwise(layer, x, depthwise), kernel), bias);
    },
    backward(layer, [x], y, gradient) {
      const [depthwise, across] = layer.weights;
      const kernel = tensor(across.shape.slice(2), across.data);
      const between = convolveDepthwise(layer, x, depthwise);
      const before = deactivate(layer.settings.activation, y, gradient);
      return [convolveDepthwiseBack(layer, x, depthwise, multiplyBack(between, kernel, before))];
    },
  },
  MaxPooling2D: {
    forward(layer, [x]) {
      const windowed = plan(layer, x.shape);
      const channels = x.shape[2];
      const y = tensor([windowed.height, windowed.width, channels]);
      y.data.fill(-Infinity);
      windowed.each((to, from) => {
        for (let c = 0; c < channels; c++) {
          const value = x.data[from * channels + c];
          if (value > y.data[to * channels + c]) y.data[to * channels + c] = value;
        }
      });
      return y;
    },
    // The gradient goes to the first of equal maxima, as in TensorFlow.
    backward(layer, [x], y, gradient) {
      const channels = x.shape[2];
      const back = tensor(x.shape);
      const given = new Uint8Array(y.data.length);
      plan(layer, x.shape).each((to, from) => {
        for (let c = 0; c < channels; c++) {
          const [i, o] = [from * channels + c, to * channels + c];
          if (given[o] || x.data[i] !== y.data[o]) continue;
          given[o] = 1;
          back.data[i] += gradient.data[o];
        }
      });
      return [back];
    },
  },
  AveragePooling2D: {
    // Margins do not count.
    forward(layer, [x]) {
      const windowed = plan(layer, x.shape);
      const channels = x.shape[2];
      const sums = new Float64Array(windowed.height * windowed.width * channels);
      const counts = new Uint32Array(windowed.height * windowed.width);
      windowed.each((to, from) => {
        counts[to]++;
        for (let c = 0; c < channels; c++) sums[to * channels + c] += x.data[from * channels + c];
      });
      const means = Float32Array.from(sums, (sum, i) => sum / counts[Math.floor(i / channels)]);
      return tensor([windowed.height, windowed.width, channels], means);
    },
    backward(layer, [x], y, gradient) {
      const channels = x.shape[2];
      const windowed = plan(layer, x.shape);
      const counts = new Uint32Array(windowed.height * windowed.width);
      windowed.each((to) => counts[to]++);
      const back = tensor(x.shape);
      windowed.each((to, from) => {
        for (let c = 0; c < channels; c++)
          back.data[from * channels + c] += gradient.data[to * channels + c] / counts[to];
      });
      return [back];
    },
  },
  GlobalAveragePooling2D: globally(false),
  GlobalMaxPooling2D: globally(true),
  ZeroPadding2D: {
    forward(layer, [x]) {
      const [[top, bottom], [left, right]] = layer.settings.padding;
      const [height, width, channels] = x.shape;
      const y = tensor([height + top + bottom, width + left + right, channels]);
      for (let row = 0; row < height; row++) {
        const line = x.data.subarray(row * width * channels, (row + 1) * width * channels);
        y.data.set(line, ((row + top) * y.shape[1] + left) * channels);
      }
      return y;
    },
    backward(layer, [x], y, gradient) {
      const [[top], [left]] = layer.settings.padding;
      const [height, width, channels] = x.shape;
      const back = tensor(x.shape);
      for (let row = 0; row < height; row++) {
        const start = ((row + top) * y.shape[1] + left) * channels;
        back.data.set(gradient.data.subarray(start, start + width * channels), row * width * channels);
      }
      return [back];
    },
  },
  Resizing: {
    forward: (layer, [x]) => resized(x, layer.settings.height, layer.settings.width),
    // No convolution comes before it, so no gradient is needed beyond it.
    backward: (layer, [x]) => [tensor(x.shape)],
  },
  Concatenate: {
    forward(layer, given) {
      const widths = given.map((x) => x.shape.at(-1));
      const total = widths.reduce((a, b) => a + b, 0);
      const y = tensor([...given[0].shape.slice(0, -1), total]);
      const positions = y.data.length / total;
      let start = 0;
      given.forEach((x, part) => {
        const width = widths[part];
        for (let p = 0; p < positions; p++)
          y.data.set(x.data.subarray(p * width, (p + 1) * width), p * total + start);
        start += width;
      });
      return y;
    },
    backward(layer, given, y, gradient) {
      const total = y.shape.at(-1);
      let start = 0;
      return given.map((x) => {
        const width = x.shape.at(-1);
        const back = tensor(x.shape);
        for (let p = 0; p < y.data.length / total; p++) {
          const from = p * total + start;
          back.data.set(gradient.data.subarray(from, from + width), p * width);
        }
        start += width;
        return back;
      });
    },
  },
  Add: {
    forward: (layer, given) =>
      tensor(given[0].shape, Float32Array.from(given[0].data, (_, i) => given.reduce((sum, x) => sum + x.data[i], 0))),
    backward: (layer, given, y, gradient) => given.map(() => tensor(y.shape, gradient.data.slice())),
  },
  RowNormalization: {
    forward(layer, [x]) {
      const features = x.shape[1];
      const y = tensor(x.shape);
      for (let start = 0; start < x.data.length; start += features) {
        const row = x.data.subarray(start, start + features);
        const sum = row.reduce((a, b) => a + b, 0) || 1;
        row.forEach((value, f) => (y.data[start + f] = value / sum));
      }
      return y;
    },
  },
  // Kipf & Welling: activation(Â X W + b). Edges are a list of pairs, each undirected edge both ways.
  GraphConvolution: {
    forward(layer, [x, edges]) {
      const product = multiply(x, layer.weights[0]);
      const sums = layer.settings.neighbours ? spread(edges, product) : product;
      return finish(layer, sums, layer.weights[1]);
    },
  },
};

// Grad-CAM (Selvaraju et al. 2017): maps of the last convolution with at least 16 positions, each
// weighted by the mean gradient of the class in it, without the negative part of their sum.
function camLayer(network, outputs) {
  const convolutions = network.layers.filter((layer) => /Conv2D$/.test(layer.type));
  const positions = (layer) => size(outputs.get(layer.name).shape.slice(0, 2));
  const least = Math.min(16, Math.max(...convolutions.map(positions)));
  return convolutions.filter((layer) => positions(layer) >= least).at(-1)?.name;
}

function gradCam(network, outputs, unit) {
  const name = camLayer(network, outputs);
  if (!name) return null;
  const maps = outputs.get(name);
  const [height, width, channels] = maps.shape;
  const gradient = backward(network, outputs, unit, name).get(name);
  const weights = new Float64Array(channels);
  gradient.data.forEach((value, i) => (weights[i % channels] += value / (height * width)));
  const heat = tensor([height, width, 1]);
  maps.data.forEach((value, i) => (heat.data[Math.floor(i / channels)] += value * weights[i % channels]));
  return tensor(heat.shape, heat.data.map((value) => Math.max(value, 0)));
}
