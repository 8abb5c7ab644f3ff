function start(root, data) {
  var CELL = 44, slider = root.querySelector('[data-key="step"]'), last = Number(slider.max);

  // Which cells hold a value that stands again in their row, column or box of 2 x 3.
  function wrong(values) {
    function box(i) { return Math.floor(i / 12) * 2 + (i % 6 > 2); }
    return Array.from(values, function (value, i) {
      return Array.from(values).some(function (other, j) {
        return i !== j && value === other && (i % 6 === j % 6 || Math.floor(i / 6) === Math.floor(j / 6) || box(i) === box(j));
      });
    });
  }
  function at(frames, step) { // an empty frame is as the one before
    for (var i = step - 1; !frames[i]; i--);
    return frames[i];
  }
  function board(key, puzzle, said) {
    var bad = wrong(said.slice(0, 36)), shade = "", lines = "", svg = root.querySelector(".nph-" + key);
    svg.querySelectorAll(".nph-cells text").forEach(function (cell, i) {
      var x = i % 6 * CELL, y = Math.floor(i / 6) * CELL, given = puzzle[i] !== "0";
      cell.textContent = said[i];
      set(cell, {
        "class": (given ? "nph-given" : "nph-open") + (bad[i] ? " nph-bad" : ""),
        opacity: given || bad[i] ? "1.00" : (0.4 + 0.017 * parseInt(said[36 + i], 36)).toFixed(2)
      });
      if (given) shade += "M" + x + " " + y + "h44v44h-44z";
      if (bad[i]) lines += "M" + (x + 12) + " " + (y + 38) + "h20";
    });
    svg.querySelector(".nph-shade").setAttribute("d", shade);
    svg.querySelector(".nph-under").setAttribute("d", lines);
    var count = bad.filter(Boolean).length;
    return count ? count + " cells break the rules" : "no cell breaks the rules";
  }
  function draw() {
    var puzzle = data.puzzles[value(root, "puzzle")], frames = puzzle[1 + value(root, "way")], step = Number(slider.value);
    var chain = board("chain", puzzle[0], at(frames, step)), top = board("top", puzzle[0], frames[0]);
    tell(root, "step", "layer " + (last + 1 - step));
    say(root, "Layer " + (last + 1 - step) + " of " + last + ": " + chain + ". In what the top layer says alone, " + top + ".");
  }
  step(root, "step", draw, 0.25);
  listen(root, draw);
}
