function start(root, data) {
  var LEFT = 34, RIGHT = 312, TOP = 32, BOTTOM = 140, DECADES = 5;

  // alpha_bar_0 ... alpha_bar_T, as noprop_helpers.schedules makes them.
  function alphaBar(kind, T, first, last) {
    var table = [], t;
    function f(time) { return Math.pow(Math.cos((time + 0.008) / 1.008 * Math.PI / 2), 2); }
    for (t = 0; t <= T; t++) {
      if (kind === 0) table.push(last + (first - last) * (f(t / T) - f(1)) / (f(0) - f(1)));
      else if (kind === 1) table.push(t ? table[t - 1] * (T > 1 ? first + (last - first) * (t - 1) / (T - 1) : first) : 1);
      else table.push(1 / (1 + Math.exp(first + (last - first) * t / T)));
    }
    return table;
  }
  root.alphaBar = alphaBar; // for a test, and for the curious

  function snr(left) { return left === 1 ? Infinity : left / (1 - left); }
  function short(v) {
    if (!(v >= 1e-4 && v < 1e5)) {
      var parts = v.toExponential(1).split("e");
      return parts[0] + " × 10^" + Number(parts[1]);
    }
    return v.toFixed(Math.max(0, 2 - Math.floor(Math.log10(v))));
  }
  function words(table, t) {
    var left = table[t];
    var said = "At t = " + t + " of " + (table.length - 1) + ": signal " + Math.sqrt(left).toFixed(3) + ", noise " +
      Math.sqrt(1 - left).toFixed(3) + ", SNR " + (left === 1 ? "infinite" : short(snr(left))) + ".";
    if (t && left === table[t - 1]) return said + " Step " + t + " adds no noise at all.";
    return said + (t ? " Step " + t + " keeps α = " + (left / table[t - 1]).toFixed(3) + " of the signal's square." : "");
  }
  function line(name, values, from, T, y) {
    root.querySelector('[data-line="' + name + '"]').setAttribute("d", values.map(function (v, i) {
      return (i ? "L" : "M") + (LEFT + (RIGHT - LEFT) * (from + i) / T).toFixed(1) + " " + y(v).toFixed(1);
    }).join(""));
  }
  function fraction(v) { return BOTTOM - (BOTTOM - TOP) * v; }
  function ratio(v) {
    return (TOP + BOTTOM) / 2 - (BOTTOM - TOP) / (2 * DECADES) * Math.max(-DECADES, Math.min(DECADES, Math.log10(v)));
  }
  function endOf(key, kind, changed) {
    var end = data.kinds[kind][key === "first" ? 0 : 1], slider = root.querySelector('[data-key="' + key + '"]');
    if (changed) {
      slider.max = end[1].length - 1;
      slider.value = end[2];
      slider.previousSibling.firstChild.textContent = end[0] + " ";
    }
    var v = end[1][Number(slider.value)];
    tell(root, key, kind === 2 ? String(-v) : String(v));
    return v;
  }

  var shown = value(root, "kind");
  listen(root, function () {
    var kind = value(root, "kind"), T = value(root, "T"), slider = root.querySelector('[data-key="t"]');
    var old = Number(slider.max), t = Number(slider.value);
    if (old !== T) { // the same share of the way
      slider.max = T;
      slider.value = t = Math.round(t / old * T);
    }
    var table = alphaBar(kind, T, endOf("first", kind, kind !== shown), endOf("last", kind, kind !== shown));
    shown = kind;
    tell(root, "T", String(T));
    tell(root, "t", String(t));
    line("alpha", table.slice(1).map(function (v, i) { return v / table[i]; }), 1, T, fraction);
    line("left", table, 0, T, fraction);
    line("snr", table.map(snr), 0, T, ratio);
    root.querySelectorAll(".nph-T").forEach(function (one) { one.textContent = "T = " + T; });
    root.querySelectorAll(".nph-now").forEach(function (one) {
      one.setAttribute("d", "M" + (LEFT + (RIGHT - LEFT) * t / T).toFixed(1) + " " + (TOP - 6) + "V" + (BOTTOM + 4));
    });
    bars(root, "label", data.noise.map(function (e, i) {
      return Math.sqrt(table[t]) * (i === data.label) + Math.sqrt(1 - table[t]) * e;
    }), data.label, 86, 34);
    say(root, words(table, t));
  });
}
