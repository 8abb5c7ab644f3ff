function start(root, data) {
  var STRIP = 8, EVERY = 10, slider = root.querySelector('[data-key="image"]'), shown = -1, list = [];
  var images = data.images.map(function (packed) {
    var parts = packed.split(" "), belief = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (var i = 2; i < parts[0].length; i += 3) belief[Number(parts[0][i])] = parseInt(parts[0].slice(i + 1, i + 3), 36);
    return {
      label: Number(parts[0][0]), says: Number(parts[0][1]), belief: belief,
      pixels: parts[1].replace(/[A-Z]/g, function (c) { return "0".repeat(c.charCodeAt(0) - 63); })
    };
  });
  function caption(one) { return one.label === one.says ? String(one.label) : one.label + " → " + one.says; }
  function draw() {
    var label = value(root, "label");
    if (label !== shown) {
      shown = label;
      list = images.filter(function (one) { return label === EVERY || one.label === label; });
      slider.max = list.length;
      slider.value = 1;
    }
    var at = Number(slider.value) - 1, one = list[at], first = Math.floor(at / STRIP) * STRIP;
    root.querySelectorAll("[data-at]").forEach(function (group, i) {
      var other = list[first + i];
      digit(group.querySelector(".nph-digit"), other ? other.pixels : "");
      group.querySelector("text").textContent = other ? caption(other) : "";
    });
    root.querySelector(".nph-chosen").setAttribute("transform", "translate(" + 80 * (at - first) + ")");
    digit(root.querySelector(".nph-answer .nph-digit"), one.pixels);
    root.querySelector(".nph-what").textContent = a(one.label);
    root.querySelector(".nph-big").textContent = one.says;
    bars(root, "belief", one.belief.map(function (p) { return p / 1000; }), one.label, 118, 92);
    tell(root, "image", at + 1 + " of " + list.length);
    say(root, "Image " + (at + 1) + " of " + list.length + ": the chain says " + one.says + ", with " +
      (Math.max.apply(null, one.belief) / 10).toFixed(1) + " %, " +
      (one.label === one.says ? "right" : "wrong: it is " + a(one.label)) + ".");
  }
  root.querySelectorAll("[data-at]").forEach(function (group, i) { // for a pointer; the slider does the same for all
    group.addEventListener("click", function () {
      slider.value = Math.floor((Number(slider.value) - 1) / STRIP) * STRIP + i + 1;
      draw();
    });
  });
  step(root, "image", draw);
  listen(root, draw);
}
