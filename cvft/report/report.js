// A report: curves, and the rows with the answers of each model.
(() => {
  const { data, element } = browse;
  const address = browse.openState({ q: "", category: "", show: "all", sort: "order", theme: "" });

  // --- numbers under the pointer ---
  for (const svg of document.querySelectorAll("svg[data-chart]")) {
    const chart = JSON.parse(svg.dataset.chart);
    const cursor = svg.querySelector(".cursor");
    const output = svg.closest("figure").querySelector("output");
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const wanted = chart.first + ((x - chart.left) / (chart.right - chart.left)) * (chart.last - chart.first);
      const steps = [...new Set(chart.lines.flatMap(([, points]) => points.map(([step]) => step)))];
      const step = steps.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best), steps[0]);
      const span = chart.last - chart.first;
      const at = chart.left + (chart.right - chart.left) * (span ? (step - chart.first) / span : 0.5);
      cursor.setAttribute("x1", at);
      cursor.setAttribute("x2", at);
      cursor.removeAttribute("hidden");
      const values = chart.lines.flatMap(([name, points]) =>
        points.filter(([one]) => one === step).map(([, value]) => `${name} ${Number(value.toPrecision(4))}`.trim()));
      output.textContent = `step ${step}: ${values.join(", ")}`;
    });
    svg.addEventListener("pointerleave", () => {
      cursor.setAttribute("hidden", "hidden");
      output.textContent = "";
    });
  }

  if (!data) return;

  // --- which rows, in which order ---
  const last = data.models.length - 1;
  const isRight = (row, model) => row.answers[model].right;
  const SHOWS = {
    all: () => true,
    wrong: (row) => !isRight(row, last),
    changed: (row) => row.answers[0].text !== row.answers[last].text,
    won: (row) => !isRight(row, 0) && isRight(row, last),
    lost: (row) => isRight(row, 0) && !isRight(row, last),
    unread: (row) => row.answers[last].why.startsWith("not readable") || !row.answers[last].text.trim(),
    cut: (row) => row.answers.some((answer) => answer.cut),
  };
  const gain = (row) => row.answers[last].score - row.answers[0].score;
  const SORTS = {
    order: null,
    worst: (one, other) => one.answers[last].score - other.answers[last].score,
    change: (one, other) => Math.abs(gain(other)) - Math.abs(gain(one)),
    loss: (one, other) => gain(one) - gain(other),
    clip: (one, other) => (one.clips[0] ?? -1) - (other.clips[0] ?? -1),
    seconds: (one, other) => lastSecond(other) - lastSecond(one),
  };
  const lastSecond = (row) => Math.max(-1, ...row.clips.map((clip) => data.clips[clip].seconds.at(-1) ?? -1));

  data.rows.forEach((row) => {
    const clips = row.clips.map((clip) => data.clips[clip].name);
    const said = row.answers.map((answer) => answer.text);
    row.words = [row.query, row.system, row.expected, row.category, ...clips, ...said, ...row.history.flat()].join("\n").toLowerCase();
  });

  const controls = browse.find("q", "category", "show", "sort");

  const showCard = (row) => {
    const card = element("article", "card");
    card.tabIndex = -1;
    const head = element("p", "clip");
    const clips = row.clips.map((clip) => data.clips[clip]);
    head.textContent = [clips.map((clip) => clip.name).join(", ") || "no clip", row.category, `row ${row.line}`].filter(Boolean).join(" · ");
    card.append(head);
    for (const clip of clips) card.append(browse.showFrames(clip));
    if (row.system) card.append(element("p", "turn", row.system));
    for (const [question, answer] of row.history) {
      card.append(element("p", "turn", `${question}\n${answer}`));
    }
    card.append(element("h3", "question", row.query));
    const answers = element("dl", "answers");
    const line = (name, answer) => {
      answers.append(element("dt", "", name));
      const said = element("dd", answer ? (answer.right ? "right" : "wrong") : "");
      if (!answer) {
        said.textContent = row.expected;
      } else {
        const mark = element("span", "mark", answer.right ? "✓" : "✗");
        mark.setAttribute("role", "img");
        mark.setAttribute("aria-label", answer.right ? "right" : "wrong");
        said.append(mark, answer.text.trim() ? element("span", "", answer.text) : element("em", "", "no answer"));
        if (answer.cut) said.append(element("span", "why", "cut at the longest answer allowed"));
        if (answer.why) said.append(element("span", "why", answer.why));
      }
      answers.append(said);
    };
    line("expected", null);
    data.models.forEach((name, model) => line(name, row.answers[model]));
    card.append(answers);
    return card;
  };

  browse.fillOptions(controls.category, data.rows.map((row) => row.category));
  if (last < 1) {
    for (const control of [controls.show, controls.sort]) {
      for (const option of [...control.options]) if (option.dataset.pair !== undefined) option.remove();
    }
  }
  browse.showRows({
    rows: data.rows,
    address,
    controls,
    matches: (row, state) => (SHOWS[state.show] ?? SHOWS.all)(row) && (!state.category || row.category === state.category),
    sorts: SORTS,
    showCard,
  });
})();
