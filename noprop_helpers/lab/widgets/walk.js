function start(root, data) {
  var chosen = 0, slider = root.querySelector('[data-key="step"]'), last = Number(slider.max);
  var picks = root.querySelectorAll("[data-pick]");

  function words(label, belief, step) {
    if (!belief) return "Nothing is said yet: layer " + last + " will see the image, and pure noise.";
    var top = Math.max.apply(null, belief), answer = belief.indexOf(top), left = last - step;
    var verdict = label < 0 ? "" : answer === label ? ", which is right" : ", but it is " + a(label);
    var end = left ? left + (left === 1 ? " layer to go." : " layers to go.") : "The walk is over.";
    return "Layer " + (left + 1) + " says " + answer + ", with " + (top / 10).toFixed(1) + " %" + verdict + ". " + end;
  }
  function draw() {
    var one = data.digits[chosen], label = one[0], way = one[2][value(root, "way")], step = Number(slider.value);
    var belief = step ? way[1][step - 1] : null;
    digit(root.querySelector(".nph-answer .nph-digit"), one[1]);
    root.querySelector(".nph-big").textContent = belief ? belief.indexOf(Math.max.apply(null, belief)) : "?";
    bars(root, "belief", (belief || [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).map(function (p) { return p / 1000; }), label, 118, 92);
    bars(root, "state", way[0][step].map(function (z) { return z / 100; }), label, 76, 22);
    tell(root, "step", step ? "layer " + (last + 1 - step) : "0 layers");
    say(root, words(label, belief, step) + " " + data.about[chosen]);
  }
  picks.forEach(function (pick, i) {
    digit(pick.querySelector("g"), data.digits[i][1]);
    if (pick.getAttribute("aria-pressed") === "true") chosen = i;
    pick.addEventListener("click", function () {
      chosen = i;
      picks.forEach(function (other, j) { set(other, { "aria-pressed": String(i === j) }); });
      draw();
    });
  });
  step(root, "step", draw, 0.8);
  listen(root, draw);
}
