// What all figures share. `each` starts every figure of a name that is not live yet, so a cell may run again.
function each(name, start) {
  document.querySelectorAll('[data-nph="' + name + '"]:not([data-live])').forEach(function (root) {
    root.setAttribute("data-live", "");
    // The same figure may stand on the page twice: its radio buttons are no group with the other's.
    var others = document.querySelectorAll("[data-live]").length;
    root.querySelectorAll('input[type="radio"]').forEach(function (one) {
      one.name += "-" + others;
      one.checked = one.defaultChecked;
    });
    start(root, JSON.parse(root.querySelector('script[type="application/json"]').textContent));
  });
}
function a(label) { return (label === 8 ? "an " : "a ") + label; }
function set(element, attributes) {
  for (var key in attributes) element.setAttribute(key, attributes[key]);
}
function say(root, text) {
  root.querySelector(".nph-says").textContent = text;
}
// The number that a control holds: of a slider, a list, or the radio button that is chosen.
function value(root, key) {
  var all = Array.from(root.querySelectorAll('[data-key="' + key + '"]'));
  return Number((all[0].type === "radio" ? all.find(function (one) { return one.checked; }) : all[0]).value);
}
// A slider's value, in its label and for those who hear it.
function tell(root, key, text) {
  root.querySelector('[data-of="' + key + '"]').textContent = text;
  root.querySelector('[data-key="' + key + '"]').setAttribute("aria-valuetext", text);
}
function listen(root, draw) {
  root.addEventListener("input", draw);
  draw();
}
// Buttons back, on and play around a slider; without seconds there is none that plays.
function step(root, key, draw, seconds) {
  var slider = root.querySelector('[data-key="' + key + '"]'), timer = 0;
  function at(name) { return root.querySelector('[data-do="' + key + "-" + name + '"]'); }
  function go(by) { slider.value = Number(slider.value) + by; draw(); }
  function stop() {
    if (!timer) return;
    timer = clearInterval(timer);
    at("play").textContent = "Play";
    set(root.querySelector(".nph-says"), { "aria-live": "polite" });
  }
  at("back").addEventListener("click", function () { stop(); go(-1); });
  at("on").addEventListener("click", function () { stop(); go(1); });
  if (!seconds) return;
  at("play").addEventListener("click", function () {
    if (timer) return stop();
    if (slider.value === slider.max) { slider.value = slider.min; draw(); }
    at("play").textContent = "Pause";
    // A voice would never come to an end of what it has to say.
    set(root.querySelector(".nph-says"), { "aria-live": "off" });
    timer = setInterval(function () {
      go(1);
      if (slider.value === slider.max || !root.isConnected) stop();
    }, 1000 * seconds);
  });
  slider.addEventListener("pointerdown", stop);
  slider.addEventListener("keydown", stop);
}
// As frame.py's `bar` and `digit`.
function bars(root, key, values, marked, zero, unit) {
  root.querySelectorAll('[data-bars="' + key + '"] > rect').forEach(function (rect, i) {
    var height = Math.abs(values[i]) * unit;
    set(rect, {
      y: (values[i] > 0 ? zero - height : zero).toFixed(1), height: height.toFixed(1),
      "class": i === marked ? "nph-bar nph-marked" : "nph-bar"
    });
  });
}
function digit(group, word) {
  var levels = "0123456789abcdefg", shapes = "";
  for (var level = 1; level <= 16; level++) {
    var at = "";
    for (var i = 0; i < 64; i++) if (word[i] === levels[level]) at += "M" + i % 8 + " " + (i >> 3) + "h1";
    if (at) shapes += '<path opacity="' + level / 16 + '" d="' + at + '"/>';
  }
  group.innerHTML = shapes;
}
