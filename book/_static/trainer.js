// NoProp in the browser: small layers on 8 x 8 digits, trained each on its own, and a digit that walks through them.
//
// First the mathematics, which knows nothing of the page; then the drawing; then the page. Time counts noise, as in the book:
// layer t gets z_t and guesses the clean label, and a walk goes from layer T down to layer 1. All numbers are doubles, and
// every function of the mathematics has its twin in noprop_helpers, with which a test compares it.
const NoPropTrainer = (() => {
  "use strict";

  const CLASSES = 10;
  const SIDE = 8;
  const PIXELS = SIDE * SIDE;
  const HIDDEN = 64;
  const BATCH = 64;
  const INPUTS = PIXELS + CLASSES;

  // --- Random draws ---------------------------------------------------------------------------------------------------

  // Marsaglia's xorshift (2003): uniform draws in [0, 1), the same in every browser. `part` tells apart the streams of a seed.
  function uniformFrom(seed, part) {
    let state = Math.imul(1000 * seed + part + 1, 0x9e3779b1) || 1;
    function uniform() {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return (state >>> 0) / 4294967296;
    }
    for (let i = 0; i < 8; i++) uniform(); // the first draws of neighbouring seeds are still alike
    return uniform;
  }

  // Box and Muller: two standard normal draws from two uniform ones.
  function normalFrom(uniform) {
    let spare = null;
    return () => {
      if (spare !== null) {
        const second = spare;
        spare = null;
        return second;
      }
      const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
      const angle = 2 * Math.PI * uniform();
      spare = radius * Math.sin(angle);
      return radius * Math.cos(angle);
    };
  }

  function normals(count, normal) {
    return Float64Array.from({ length: count }, normal);
  }

  function shuffle(list, uniform) {
    for (let i = list.length - 1; i > 0; i--) {
      const j = Math.floor(uniform() * (i + 1));
      [list[i], list[j]] = [list[j], list[i]];
    }
  }

  // --- Schedules: alphaBar[t] for t = 0 (label) to T (noise), (1.2) ------------------------------------------------------

  function cosineAlphaBar(numSteps, offset = 0.008, cleanEnd = 0.9999, noiseEnd = 1e-4) {
    const f = (t) => Math.cos(((t / numSteps + offset) / (1 + offset)) * (Math.PI / 2)) ** 2;
    const times = Array.from({ length: numSteps + 1 }, (_, t) => t);
    return times.map((t) => noiseEnd + ((cleanEnd - noiseEnd) * (f(t) - f(numSteps))) / (f(0) - f(numSteps)));
  }

  // The published notebook's alpha_1 ... alpha_T, evenly spaced. Its start of 1 adds no noise, which cannot be undone.
  function linearAlphaBar(numSteps, start = 0.99, end = 0.1) {
    const alphaBar = [1];
    for (let t = 1; t <= numSteps; t++) {
      const alpha = numSteps === 1 ? start : start + ((end - start) * (t - 1)) / (numSteps - 1);
      alphaBar.push(alphaBar[t - 1] * alpha);
    }
    return alphaBar;
  }

  // q(z_{t-1} | z_t, u) = N(a_t u + b_t z_t, c_t I), (1.6); entry t - 1 belongs to layer t.
  function posteriorCoefficients(alphaBar) {
    return alphaBar.slice(1).map((after, i) => {
      const before = alphaBar[i];
      const alpha = after / before;
      return {
        a: (Math.sqrt(before) * (1 - alpha)) / (1 - after),
        b: (Math.sqrt(alpha) * (1 - before)) / (1 - after),
        c: ((1 - before) * (1 - alpha)) / (1 - after),
      };
    });
  }

  // A noised label: z_t = sqrt(alphaBar_t) u_y + sqrt(1 - alphaBar_t) eps, with u_y one-hot, (2.2).
  function qSample(label, alphaBar, normal, z) {
    const sigma = Math.sqrt(1 - alphaBar);
    for (let k = 0; k < CLASSES; k++) z[k] = sigma * normal();
    z[label] += Math.sqrt(alphaBar);
    return z;
  }

  // --- One layer: concat(x, z) -> Linear -> ReLU -> Linear -> ten scores ------------------------------------------------

  // W1 [INPUTS, HIDDEN], b1 [HIDDEN], W2 [CLASSES, HIDDEN], b2 [CLASSES], one after another in one array. W1 lies input by
  // input, PyTorch's lies unit by unit: a blank pixel then skips a whole row, and half of all pixels are blank.
  function viewsOf(flat) {
    const sizes = { W1: INPUTS * HIDDEN, b1: HIDDEN, W2: CLASSES * HIDDEN, b2: CLASSES };
    const views = {};
    let start = 0;
    for (const [name, size] of Object.entries(sizes)) {
      views[name] = flat.subarray(start, start + size);
      start += size;
    }
    return views;
  }

  const PARAMETERS = INPUTS * HIDDEN + HIDDEN + CLASSES * HIDDEN + CLASSES;

  // A layer owns all that its training needs: weights, their gradients, Adam's two means, and its own source of noise.
  function newLayer(seed, t) {
    const uniform = uniformFrom(seed, t);
    const flat = new Float64Array(PARAMETERS);
    const gradients = new Float64Array(PARAMETERS);
    for (let i = 0; i < PARAMETERS; i++) {
      const fanIn = i < (INPUTS + 1) * HIDDEN ? INPUTS : HIDDEN;
      flat[i] = (2 * uniform() - 1) / Math.sqrt(fanIn); // as PyTorch starts a linear layer
    }
    return {
      flat,
      ...viewsOf(flat),
      gradients: { flat: gradients, ...viewsOf(gradients) },
      adam: { m: new Float64Array(PARAMETERS), v: new Float64Array(PARAMETERS), steps: 0 },
      normal: normalFrom(uniform),
    };
  }

  function addProduct(out, input, W, firstRow) {
    for (let i = 0; i < input.length; i++) {
      const value = input[i];
      if (value === 0) continue;
      const row = (firstRow + i) * HIDDEN;
      for (let j = 0; j < HIDDEN; j++) out[j] += value * W[row + j];
    }
  }

  function addOuterProduct(W, firstRow, input, d) {
    for (let i = 0; i < input.length; i++) {
      const value = input[i];
      if (value === 0) continue;
      const row = (firstRow + i) * HIDDEN;
      for (let j = 0; j < HIDDEN; j++) W[row + j] += value * d[j];
    }
  }

  function hiddenUnits(layer, x, z, hidden) {
    hidden.set(layer.b1);
    addProduct(hidden, x, layer.W1, 0);
    addProduct(hidden, z, layer.W1, PIXELS);
    for (let j = 0; j < HIDDEN; j++) if (hidden[j] < 0) hidden[j] = 0;
  }

  function scoresOf(layer, hidden, scores) {
    for (let k = 0; k < CLASSES; k++) {
      let sum = layer.b2[k];
      for (let j = 0; j < HIDDEN; j++) sum += layer.W2[k * HIDDEN + j] * hidden[j];
      scores[k] = sum;
    }
  }

  // The class with the largest score; of a state, the class whose one-hot label is nearest.
  function largest(values) {
    let best = 0;
    for (let k = 1; k < values.length; k++) if (values[k] > values[best]) best = k;
    return best;
  }

  function softmax(scores) {
    const top = scores[largest(scores)]; // taken off, so that no exponential overflows
    let sum = 0;
    for (let k = 0; k < CLASSES; k++) sum += scores[k] = Math.exp(scores[k] - top);
    for (let k = 0; k < CLASSES; k++) scores[k] /= sum;
    return scores;
  }

  // Made once: training needs them a hundred thousand times a second.
  const room = { z: new Float64Array(CLASSES), hidden: new Float64Array(HIDDEN), dHidden: new Float64Array(HIDDEN) };

  // A layer's belief in the ten classes. With one-hot labels it is its guess of the clean label, too: u_hat = softmax(scores).
  function belief(layer, x, z) {
    const scores = new Float64Array(CLASSES);
    hiddenUnits(layer, x, z, room.hidden);
    scoresOf(layer, room.hidden, scores);
    return softmax(scores);
  }

  // Adds the gradients of weight * -log softmax(scores)_y, (3.2), to the layer's own, and returns the loss without the weight.
  function addGradients(layer, x, z, y, weight) {
    const { hidden, dHidden } = room; // `belief` leaves the hidden units there
    const d = belief(layer, x, z);
    const loss = -Math.log(d[y]);
    d[y] -= 1;
    dHidden.fill(0);
    for (let k = 0; k < CLASSES; k++) {
      const dScore = weight * d[k];
      layer.gradients.b2[k] += dScore;
      for (let j = 0; j < HIDDEN; j++) {
        layer.gradients.W2[k * HIDDEN + j] += dScore * hidden[j];
        dHidden[j] += dScore * layer.W2[k * HIDDEN + j];
      }
    }
    for (let j = 0; j < HIDDEN; j++) {
      if (hidden[j] === 0) dHidden[j] = 0;
      layer.gradients.b1[j] += dHidden[j];
    }
    addOuterProduct(layer.gradients.W1, 0, x, dHidden);
    addOuterProduct(layer.gradients.W1, PIXELS, z, dHidden);
    return loss;
  }

  // Kingma and Ba's Adam with PyTorch's defaults.
  function adamStep(layer, learningRate, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8) {
    const { flat, adam } = layer;
    const { m, v } = adam;
    const gradient = layer.gradients.flat;
    adam.steps += 1;
    const unbias1 = 1 - beta1 ** adam.steps;
    const unbias2 = 1 - beta2 ** adam.steps;
    for (let i = 0; i < PARAMETERS; i++) {
      const g = gradient[i];
      m[i] = beta1 * m[i] + (1 - beta1) * g;
      v[i] = beta2 * v[i] + (1 - beta2) * g * g;
      flat[i] -= (learningRate * (m[i] / unbias1)) / (Math.sqrt(v[i] / unbias2) + epsilon);
    }
  }

  // --- NoProp: T layers, none of which waits for another ----------------------------------------------------------------

  function newModel({ numSteps, schedule, seed }) {
    const alphaBar = schedule === "linear" ? linearAlphaBar(numSteps) : cosineAlphaBar(numSteps);
    const layers = Array.from({ length: numSteps }, (_, i) => newLayer(seed, i + 1));
    return { numSteps, seed, alphaBar, posterior: posteriorCoefficients(alphaBar), layers };
  }

  // One step of layer t: its own noised labels, its own loss, its own Adam. Nothing of another layer comes in. -> mean loss.
  function trainLayer(model, t, digits, batch, learningRate) {
    const layer = model.layers[t - 1];
    layer.gradients.flat.fill(0);
    let loss = 0;
    for (const i of batch) {
      const z = qSample(digits.labels[i], model.alphaBar[t], layer.normal, room.z);
      loss += addGradients(layer, digits.features[i], z, digits.labels[i], 1 / batch.length);
    }
    adamStep(layer, learningRate);
    return loss / batch.length;
  }

  // z_{t-1} = a_t u_hat + b_t z_t + sqrt(c_t) eps, (4.1); without a source of noise the last term is left out.
  function posteriorStep({ a, b, c }, uHat, z, normal) {
    const noise = normal ? Math.sqrt(c) : 0;
    return z.map((value, k) => a * uHat[k] + b * value + (noise ? noise * normal() : 0));
  }

  // From noise z_T down to z_0. states[t] is z_t, beliefs[t] what layer t makes of it.
  function walk(model, x, start, normal) {
    const states = [];
    const beliefs = [];
    states[model.numSteps] = start;
    for (let t = model.numSteps; t >= 1; t--) {
      beliefs[t] = belief(model.layers[t - 1], x, states[t]);
      states[t - 1] = posteriorStep(model.posterior[t - 1], beliefs[t], states[t], normal);
    }
    return { states, beliefs };
  }

  function answer(model, x, normal, noise) {
    return largest(walk(model, x, normals(CLASSES, normal), noise ? normal : null).states[0]);
  }

  // --- Work that can be stopped after any piece: a piece ends at a `yield` -----------------------------------------------

  // Endless training: passes over the data, batch by batch and layer by layer. After a pass it hands out the layers' losses.
  function* training(model, digits, learningRate) {
    const uniform = uniformFrom(model.seed, 0);
    const order = Array.from({ length: digits.numTrain }, (_, i) => i);
    for (;;) {
      const losses = new Array(model.numSteps).fill(0);
      shuffle(order, uniform);
      for (let start = 0; start < order.length; start += BATCH) {
        const batch = order.slice(start, start + BATCH);
        for (let t = 1; t <= model.numSteps; t++) {
          losses[t - 1] += (trainLayer(model, t, digits, batch, learningRate) * batch.length) / order.length;
          yield null;
        }
      }
      yield losses;
    }
  }

  // What the model says of every test digit, each from its own noise.
  function* testing(model, digits, noise) {
    const normal = normalFrom(uniformFrom(model.seed, 500));
    const answers = [];
    for (let i = digits.numTrain; i < digits.labels.length; i++) {
      answers.push(answer(model, digits.features[i], normal, noise));
      if (answers.length % 4 === 0) yield null;
    }
    return answers;
  }

  function accuracy(digits, answers) {
    return answers.filter((k, i) => k === digits.labels[digits.numTrain + i]).length / answers.length;
  }

  // How often walks from other noise end at each class.
  function* polling(model, x, noise, seed, numWalks) {
    const normal = normalFrom(uniformFrom(seed, 700));
    const counts = new Array(CLASSES).fill(0);
    for (let i = 0; i < numWalks; i++) {
      counts[answer(model, x, normal, noise)] += 1;
      if (i % 4 === 3) yield null;
    }
    return counts;
  }

  // Runs work in slices of some 8 ms, with the page free to draw and to listen between them.
  const SLICE = 8;

  function inSlices(work, onDone) {
    let timer = setTimeout(slice, 0);
    function slice() {
      const end = performance.now() + SLICE;
      do {
        const { value, done } = work.next();
        if (done) return onDone(value);
      } while (performance.now() < end);
      timer = setTimeout(slice, 0);
    }
    return () => clearTimeout(timer);
  }

  // --- Digits and ink ---------------------------------------------------------------------------------------------------

  const LEVELS = 16;

  // One scale for all pixels, about one over their spread. Chapter 3 gives each pixel its own: ink in a corner that is blank
  // in nearly every digit is then enlarged beyond all measure, and here a reader may draw there.
  const FEATURES_PER_INK = LEVELS / 6;

  function unpackDigits({ numTrain, labels, pixels }) {
    const levels = [];
    for (const letter of pixels) {
      const code = letter.charCodeAt(0);
      if (code >= 97) for (let i = 97; i <= code; i++) levels.push(0);
      else levels.push(code - 64);
    }
    const features = [];
    for (let start = 0; start < levels.length; start += PIXELS) {
      const image = levels.slice(start, start + PIXELS); // down the columns
      const across = image.map((_, i) => image[(i % SIDE) * SIDE + Math.floor(i / SIDE)]);
      features.push(Float64Array.from(across, (level) => (level / LEVELS) * FEATURES_PER_INK));
    }
    return { numTrain, labels: Uint8Array.from(labels), features };
  }

  // A sheet is 32 x 32 fine cells of ink, 0 to 1. A pixel holds the mean of its 4 x 4: the data set was made that way, too.
  const FINE = 4;
  const SHEET = SIDE * FINE;
  const BRUSH = 2.6; // fine cells; strokes then are about as wide as the data set's

  const blankSheet = () => new Float64Array(SHEET * SHEET);

  function setPixel(sheet, pixel, ink) {
    const top = Math.floor(pixel / SIDE) * FINE;
    const left = (pixel % SIDE) * FINE;
    for (let v = top; v < top + FINE; v++) sheet.fill(ink, v * SHEET + left, v * SHEET + left + FINE);
  }

  function pixelsOf(sheet) {
    const pixels = new Float64Array(PIXELS);
    sheet.forEach((ink, i) => {
      const row = Math.floor(i / SHEET / FINE);
      const column = Math.floor((i % SHEET) / FINE);
      pixels[row * SIDE + column] += ink / (FINE * FINE);
    });
    return pixels;
  }

  const featuresOf = (sheet) => pixelsOf(sheet).map((ink) => ink * FEATURES_PER_INK);

  function sheetOf(features) {
    const sheet = blankSheet();
    features.forEach((value, pixel) => setPixel(sheet, pixel, value / FEATURES_PER_INK));
    return sheet;
  }

  // A straight stroke of a round brush, from one point to another, in fine cells.
  function drawStroke(sheet, from, to) {
    const dx = to.x - from.x;
    const dy = to.y - from.y;
    const length2 = dx * dx + dy * dy;
    for (let i = 0; i < sheet.length; i++) {
      const x = (i % SHEET) + 0.5 - from.x;
      const y = Math.floor(i / SHEET) + 0.5 - from.y;
      const along = length2 > 0 ? Math.min(1, Math.max(0, (x * dx + y * dy) / length2)) : 0;
      if (Math.hypot(x - along * dx, y - along * dy) <= BRUSH) sheet[i] = 1;
    }
  }

  function boundsOf(sheet) {
    const bounds = { left: SHEET, right: -1, top: SHEET, bottom: -1 };
    sheet.forEach((ink, i) => {
      if (ink === 0) return;
      bounds.left = Math.min(bounds.left, i % SHEET);
      bounds.right = Math.max(bounds.right, i % SHEET);
      bounds.top = Math.min(bounds.top, Math.floor(i / SHEET));
      bounds.bottom = Math.max(bounds.bottom, Math.floor(i / SHEET));
    });
    return bounds;
  }

  // The drawing moved to the middle and enlarged or reduced to the size that the data set's digits have.
  const FIT = { width: 24, height: 30 };

  function fitted(sheet) {
    const { left, right, top, bottom } = boundsOf(sheet);
    if (right < 0) return sheet;
    const scale = Math.min(FIT.width / (right - left + 1), FIT.height / (bottom - top + 1));
    const source = (place, low, high) => Math.floor((place + 0.5 - SHEET / 2) / scale + (low + high + 1) / 2);
    return blankSheet().map((_, i) => {
      const u = source(i % SHEET, left, right);
      const v = source(Math.floor(i / SHEET), top, bottom);
      return u >= left && u <= right && v >= top && v <= bottom ? sheet[v * SHEET + u] : 0;
    });
  }

  // --- The page: what it holds, and what happens when something changes --------------------------------------------------

  const LEARNING_RATES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];
  const PASSES = 30; // of one lesson: what a press of the button trains at most
  const WALKS = 100;
  const WALK_MS = 2500; // for all layers together

  const part = (name) => document.getElementById(`npt-${name}`);

  function start() {
    const digits = unpackDigits(NoPropTrainer.packedDigits);
    const page = { digits, seed: 1, walkSeed: 1, cell: 0, questions: 0 };
    buildFrame(page);
    listen(page);
    startOver(page);
    pick(page, 0);
    part("without").hidden = true;
    part("figure").hidden = false;
  }

  function settings() {
    return {
      numSteps: Number(part("steps").value),
      schedule: document.querySelector("input[name=npt-schedule]:checked").value,
      learningRate: LEARNING_RATES[part("rate").value],
      noise: part("noise").checked,
    };
  }

  // New layers with random weights. What was being computed is dropped; if that was a lesson, the new layers get theirs.
  function startOver(page) {
    const wasTraining = page.phase === "training";
    rest(page);
    const { numSteps, schedule, learningRate } = settings();
    const model = newModel({ numSteps, schedule, seed: page.seed });
    Object.assign(page, { model, training: training(model, page.digits, learningRate), lesson: null, answers: null });
    Object.assign(page, { phase: "untrained", losses: [], milliseconds: 0 });
    page.accuracies = { noisy: [], quiet: [] }; // after so many passes, with noise in the walk and without
    buildRows(page);
    showLayersWalked(page, numSteps);
    if (wasTraining) goOn(page);
    else test(page);
    showStatus(page);
  }

  // Some passes, and a test after each. Stopped anywhere, a lesson goes on from there.
  function* lessonOf(page) {
    if (page.answers === null) yield* marking(page);
    do {
      page.losses.push(yield* passOf(page));
      yield* marking(page);
      if (page.losses.length % 5 === 0) showStatus(page);
    } while (page.losses.length % PASSES !== 0);
  }

  function* passOf(page) {
    for (let piece = 1; ; piece++) {
      const losses = page.training.next().value;
      if (losses !== null) return losses;
      if (piece % (4 * page.model.numSteps) === 0) redraw(page); // the walk in view, as the layers learn
      yield null;
    }
  }

  function* marking(page) {
    const accuracies = accuraciesOf(page);
    page.answers = yield* testing(page.model, page.digits, settings().noise);
    accuracies[page.losses.length] = accuracy(page.digits, page.answers);
    redraw(page);
    yield* asking(page);
  }

  // Two measures, and a curve for each: the one in view is of the walk that is in view.
  function accuraciesOf({ accuracies }) {
    return settings().noise ? accuracies.noisy : accuracies.quiet;
  }

  // A hundred walks of the digit in view.
  function* asking(page) {
    const question = page.questions;
    const counts = yield* polling(page.model, featuresOf(page.sheet), settings().noise, page.walkSeed, WALKS);
    if (question === page.questions) showPoll(page, counts);
  }

  // What the walks have said, they said of another digit, or walking another way.
  function forgetPoll(page) {
    page.questions += 1;
    showBars(part("poll"), null, {}, "not yet walked");
    setText(part("poll-value"), "");
    redraw(page);
  }

  function goOn(page) {
    page.lesson ??= lessonOf(page);
    work(page, page.lesson, () => {
      page.lesson = null;
      leaveOff(page, "trained");
    });
    page.phase = "training";
    page.since = performance.now();
    showStatus(page);
  }

  function leaveOff(page, phase) {
    rest(page);
    page.milliseconds += performance.now() - page.since;
    page.phase = phase;
    showStatus(page);
    redraw(page);
  }

  // What the layers are worth as they are.
  function test(page) {
    work(page, marking(page), () => showStatus(page));
  }

  function work(page, pieces, onDone) {
    rest(page);
    page.stopWork = inSlices(pieces, onDone);
  }

  function rest(page) {
    page.stopWork?.();
    page.stopWork = null;
  }

  // While training, `marking` asks after every pass; at rest, every change asks anew and drops the question before.
  function askAgain(page) {
    page.stopAsking?.();
    if (page.phase !== "training" && !page.pen) page.stopAsking = inSlices(asking(page), () => {});
  }

  function walkAgain(page) {
    page.walkSeed += 1;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    showLayersWalked(page, still ? page.model.numSteps : 0);
    if (!still) page.nextStep = setTimeout(() => stepOn(page), WALK_MS / page.model.numSteps);
  }

  function stepOn(page) {
    showLayersWalked(page, page.layersWalked + 1);
    if (page.layersWalked < page.model.numSteps) {
      page.nextStep = setTimeout(() => stepOn(page), WALK_MS / page.model.numSteps);
    }
  }

  function showLayersWalked(page, count) {
    clearTimeout(page.nextStep);
    page.layersWalked = count;
    redraw(page);
  }

  function pick(page, digit) {
    page.digit = digit;
    page.truth = page.digits.labels[page.digits.numTrain + digit];
    page.sheet = sheetOf(page.digits.features[page.digits.numTrain + digit]);
    forgetPoll(page);
  }

  // From now on nobody but the reader knows what it shows.
  function draw(page, change) {
    page.truth = null;
    change(page.sheet);
    forgetPoll(page);
  }

  function misread(page) {
    const { answers, digits, digit } = page;
    const order = answers.map((_, i) => (digit + 1 + i) % answers.length);
    return order.find((i) => answers[i] !== digits.labels[digits.numTrain + i]);
  }

  // --- The page: what it listens to --------------------------------------------------------------------------------------

  function listen(page) {
    const on = (name, event, react) => part(name).addEventListener(event, react);
    on("train", "click", () => (page.phase === "training" ? leaveOff(page, "stopped") : goOn(page)));
    on("over", "click", () => {
      page.seed += 1; // other weights, another order, other noise
      startOver(page);
    });
    for (const name of ["steps", "rate"]) on(name, "input", showSettings);
    for (const name of ["steps", "rate", "schedule"]) on(name, "change", () => startOver(page));
    on("noise", "change", () => {
      if (page.phase !== "training") test(page);
      showStatus(page);
      forgetPoll(page);
    });
    on("again", "click", () => walkAgain(page));
    on("walked", "input", () => showLayersWalked(page, Number(part("walked").value)));
    on("digit", "input", () => pick(page, Number(part("digit").value)));
    on("misread", "click", () => pick(page, misread(page)));
    on("clear", "click", () => draw(page, (sheet) => sheet.fill(0)));
    on("fit", "click", () => draw(page, (sheet) => sheet.set(fitted(sheet))));
    listenToKeys(page);
    listenToPointer(page);
    showSettings();
  }

  const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const MOVES = { ...ARROWS, Home: [0, -SIDE], End: [0, SIDE] };

  function listenToKeys(page) {
    const within = (place) => Math.min(SIDE - 1, Math.max(0, place));
    part("grid").addEventListener("focusin", (event) => {
      page.cell = page.cells.indexOf(event.target);
      page.cells.forEach((cell, i) => (cell.tabIndex = i === page.cell ? 0 : -1)); // one stop of the Tab key for all 64
    });
    part("grid").addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key in MOVES) {
        const [down, right] = MOVES[event.key];
        const row = within(Math.floor(page.cell / SIDE) + down);
        page.cells[row * SIDE + within((page.cell % SIDE) + right)].focus();
      } else if (event.key === " " || event.key === "Enter") {
        const ink = pixelsOf(page.sheet)[page.cell] < 0.5 ? 1 : 0;
        draw(page, (sheet) => setPixel(sheet, page.cell, ink));
      } else if (event.key === "Delete" || event.key === "Backspace") {
        draw(page, (sheet) => setPixel(sheet, page.cell, 0));
      } else return;
      event.preventDefault();
    });
  }

  function listenToPointer(page) {
    const grid = part("grid");
    const placeOf = (event) => {
      const box = grid.getBoundingClientRect();
      return { x: ((event.clientX - box.left) / box.width) * SHEET, y: ((event.clientY - box.top) / box.height) * SHEET };
    };
    const strokeTo = (place) => {
      draw(page, (sheet) => drawStroke(sheet, page.pen, place));
      page.pen = place;
    };
    grid.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !event.isPrimary) return;
      grid.setPointerCapture(event.pointerId);
      page.pen = placeOf(event);
      strokeTo(page.pen);
    });
    grid.addEventListener("pointermove", (event) => {
      if (page.pen && event.isPrimary) strokeTo(placeOf(event));
    });
    for (const end of ["pointerup", "pointercancel"]) {
      grid.addEventListener(end, () => {
        page.pen = null;
        redraw(page);
      });
    }
  }

  // --- The page: what it shows --------------------------------------------------------------------------------------------

  function element(tag, className, ...children) {
    const made = document.createElement(tag);
    made.className = className;
    made.append(...children);
    return made;
  }

  function picture(className, ...children) {
    const made = element("div", className, ...children);
    made.setAttribute("role", "img");
    return made;
  }

  const perClass = (make) => Array.from({ length: CLASSES }, (_, k) => make(k));

  const tenBars = () => perClass(() => element("i", ""));

  function emptyCurve() {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.append(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
    return svg;
  }

  // What does not change with the number of layers.
  function buildFrame(page) {
    buildGrid(page);
    for (const name of ["end", "poll"]) part(name).append(...tenBars());
    for (const axis of document.querySelectorAll(".npt-classes")) axis.append(...perClass((k) => element("b", "", `${k}`)));
    part("curve").append(emptyCurve());
  }

  function buildGrid(page) {
    page.cells = Array.from({ length: PIXELS }, (_, i) => {
      const cell = element("div", "npt-cell");
      cell.setAttribute("role", "gridcell");
      cell.tabIndex = i === 0 ? 0 : -1;
      return cell;
    });
    for (let row = 0; row < SIDE; row++) {
      const line = element("div", "npt-line", ...page.cells.slice(row * SIDE, (row + 1) * SIDE));
      line.setAttribute("role", "row");
      part("grid").append(line);
    }
  }

  // A row a layer, the noisy end on top.
  function buildRows(page) {
    page.rows = [];
    part("rows").replaceChildren();
    for (let t = page.model.numSteps; t >= 1; t--) {
      const name = element("span", "npt-name", `${t}`);
      name.style.setProperty("--left", page.model.alphaBar[t]);
      const loss = picture("npt-curve", emptyCurve());
      const state = picture("npt-bars npt-state", ...tenBars());
      const belief = picture("npt-bars npt-belief", ...tenBars());
      name.title = `${percent(page.model.alphaBar[t])} of the label's variance is left in what layer ${t} sees`;
      page.rows.push({ t, loss, state, belief });
      part("rows").append(element("li", "npt-row", name, loss, state, belief));
    }
    part("rows").classList.toggle("npt-many", page.model.numSteps > 10);
    part("walked").max = page.model.numSteps;
  }

  // However much changes, the page is drawn once a frame.
  function redraw(page) {
    page.frame ??= requestAnimationFrame(() => {
      page.frame = null;
      show(page);
    });
  }

  function show(page) {
    const x = featuresOf(page.sheet);
    const normal = normalFrom(uniformFrom(page.walkSeed, 600));
    const path = walk(page.model, x, normals(CLASSES, normal), settings().noise ? normal : null);
    showInk(page);
    showWalk(page, path);
    showTraining(page);
    showVerdict(page);
    askAgain(page);
  }

  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  const counted = (count, one, many) => `${count} ${count === 1 ? one : many}`;

  function setText(target, text) {
    if (target.textContent !== text) target.textContent = text; // a live region is read out when it is written
  }

  function showSettings() {
    const { numSteps, learningRate } = settings();
    setText(part("steps-value"), `${numSteps}`);
    setText(part("rate-value"), `${learningRate}`);
    part("rate").setAttribute("aria-valuetext", `${learningRate}`);
  }

  function showInk(page) {
    pixelsOf(page.sheet).forEach((ink, i) => {
      const label = `row ${Math.floor(i / SIDE) + 1}, column ${(i % SIDE) + 1}, ink ${Math.round(100 * ink)} %`;
      if (page.cells[i].getAttribute("aria-label") === label) return;
      page.cells[i].setAttribute("aria-label", label);
      page.cells[i].style.setProperty("--ink", ink);
    });
    const name = page.truth === null ? "your drawing" : `no. ${page.digit + 1}, a ${page.truth}`;
    setText(part("digit-value"), name);
    part("digit").value = page.digit;
    part("digit").setAttribute("aria-valuetext", name);
    part("misread").disabled = !page.answers || misread(page) === undefined;
  }

  function showBars(target, heights, marks, label) {
    [...target.children].forEach((bar, k) => {
      bar.style.setProperty("--height", heights ? heights[k].toFixed(4) : 0);
      bar.className = marks[k] ?? "";
    });
    target.setAttribute("aria-label", label);
  }

  // The classes that stand out all the way down: where the walk ends and, if it is another one, where it should have ended.
  function marksOf(page, end) {
    return { [page.truth ?? end]: "npt-truth", [end]: "npt-end" };
  }

  const inWords = (belief) => {
    const order = Array.from(belief.keys()).sort((i, j) => belief[j] - belief[i]);
    return order.slice(0, 2).map((k) => `${k} with ${percent(belief[k])}`).join(", ");
  };

  // Entries of a state lie mostly within -2 and 2; a bar beyond is cut off.
  const clipped = (z) => Array.from(z, (value) => Math.max(-1, Math.min(1, value / 2)));

  function showWalk(page, { states, beliefs }) {
    const { numSteps } = page.model;
    const end = largest(states[0]);
    const arrived = page.layersWalked === numSteps;
    const marks = arrived ? marksOf(page, end) : {};
    for (const { t, state, belief } of page.rows) {
      const [sees, spoke] = [numSteps - t <= page.layersWalked, numSteps - t < page.layersWalked];
      const gets = sees ? `layer ${t} gets a state whose largest entry is that of ${largest(states[t])}` : "not yet reached";
      const believes = spoke ? `layer ${t} believes ${inWords(beliefs[t])}` : "not yet asked";
      showBars(state, sees ? clipped(states[t]) : null, marks, gets);
      showBars(belief, spoke ? beliefs[t] : null, marks, believes);
    }
    showBars(part("end"), arrived ? clipped(states[0]) : null, marks, arrived ? `the walk ends at ${end}` : "not yet reached");
    page.end = arrived ? end : null;
    part("walked").value = page.layersWalked;
    setText(part("walked-value"), `${page.layersWalked} of ${numSteps}`);
    setText(part("answer"), arrived ? `${end}` : "");
  }

  function showPoll(page, counts) {
    const marks = marksOf(page, largest(counts));
    const said = counts.map((count, k) => [count, k]).filter(([count]) => count > 0).sort(([a], [b]) => b - a);
    const words = said.map(([count, k], i) => `${count} ${i === 0 ? "end at" : "at"} ${k}`).join(", ");
    showBars(part("poll"), counts.map((count) => count / WALKS), marks, words);
    setText(part("poll-value"), `Of ${WALKS} walks from other noise, ${words}.`);
  }

  function showVerdict(page) {
    const { end, truth } = page;
    const verdict = truth === null ? "" : end === truth ? " That is right." : ` It is a ${truth}.`;
    setText(part("verdict"), end === null ? "On the way \u2026" : `The walk ends at ${end}.${verdict}`);
  }

  function setCurve(target, points, label) {
    const line = points.length === 1 ? [points[0], points[0]] : points; // a line from a point to itself is a dot
    target.querySelector("polyline").setAttribute("points", line.map((point) => point.join(",")).join(" "));
    target.setAttribute("aria-label", label);
  }

  // A loss from 3 nats (top) to 0.001 (bottom), in logarithms.
  function lossHeight(loss) {
    const share = Math.log(loss / 0.001) / Math.log(3 / 0.001);
    return 100 - 100 * Math.max(0, Math.min(1, share));
  }

  function showTraining(page) {
    const { losses } = page;
    const across = (pass) => (100 * pass) / Math.max(PASSES, losses.length);
    for (const { t, loss } of page.rows) {
      const own = losses.map((pass) => pass[t - 1]);
      const first = own.length > 0 ? own[0].toFixed(3) : "";
      const words = first ? `loss of layer ${t}: first ${first}, now ${own.at(-1).toFixed(3)}` : "not yet trained";
      setCurve(loss, own.map((value, i) => [across(i + 1), lossHeight(value)]), words);
    }
    const tested = Object.entries(accuraciesOf(page)); // not after every pass, where the noise was switched on or off between
    const words = tested.map(([pass, share]) => `${percent(share)} after pass ${pass}`).join(", ");
    setCurve(part("curve"), tested.map(([pass, share]) => [across(pass), 100 - 100 * share]), words || "not yet tested");
    setText(part("accuracy"), tested.length > 0 ? percent(tested.at(-1)[1]) : "\u2013");
  }

  const BUTTON = { untrained: "Train", training: "Stop", stopped: "Go on", trained: "Go on" };

  // What the status says, the figure shows at the same moment: under load, a frame may be long in coming.
  function showStatus(page) {
    showTraining(page);
    const layers = counted(page.model.numSteps, "layer", "layers");
    const share = accuraciesOf(page).at(-1);
    const right = share === undefined ? "not yet tested" : `${percent(share)} right`;
    const steps = counted(page.model.layers[0].adam.steps, "step", "steps");
    const soFar = `${steps} of every layer, ${counted(page.losses.length, "pass", "passes")}: ${right}.`;
    const seconds = (page.milliseconds / 1000).toFixed(1);
    const words = {
      untrained: `${layers} with random weights: ${right}.`,
      training: `Training ${layers}, each on its own loss. ${page.losses.length > 0 ? soFar : ""}`,
      stopped: `Stopped. ${soFar}`,
      trained: `Trained for ${seconds} s on this device. ${soFar}`,
    };
    setText(part("status"), words[page.phase]);
    setText(part("train"), BUTTON[page.phase]);
  }

  // What a test looks at, and what the page calls.
  return {
    cosineAlphaBar,
    linearAlphaBar,
    posteriorCoefficients,
    uniformFrom,
    normalFrom,
    newLayer,
    newModel,
    addGradients,
    adamStep,
    walk,
    training,
    testing,
    polling,
    accuracy,
    inSlices,
    unpackDigits,
    blankSheet,
    drawStroke,
    fitted,
    featuresOf,
    start,
  };
})();
