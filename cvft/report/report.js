"use strict";
// The rows of the page: filter, sort, search and keyboard. All text goes in as text, never as markup.
(() => {
  const PAGE_ROWS = 40;
  const source = document.getElementById("cards");
  const data = source ? JSON.parse(source.textContent) : null;

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // --- theme: as the system has it, or as chosen; kept in the address, for a file has no other memory ---
  const themeButton = document.getElementById("theme");
  const isDark = () => document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const showTheme = () => {
    themeButton.textContent = isDark() ? "Light" : "Dark";
    themeButton.setAttribute("aria-label", `switch to the ${isDark() ? "light" : "dark"} theme`);
  };

  // --- state in the address ---
  const DEFAULTS = { q: "", category: "", show: "all", sort: "order", theme: "" };
  const state = { ...DEFAULTS };
  const readAddress = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(DEFAULTS)) state[key] = given.get(key) ?? DEFAULTS[key];
  };
  const writeAddress = () => {
    const said = new URLSearchParams();
    for (const [key, value] of Object.entries(state)) if (value !== DEFAULTS[key]) said.set(key, value);
    const hash = said.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  };
  const applyTheme = () => {
    if (state.theme) document.documentElement.dataset.theme = state.theme;
    else delete document.documentElement.dataset.theme;
    showTheme();
  };

  readAddress();
  applyTheme();
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    state.theme = isDark() ? "light" : "dark";
    applyTheme();
    writeAddress();
  });

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
    clip: (one, other) => (one.clip ?? -1) - (other.clip ?? -1),
    seconds: (one, other) => lastSecond(other) - lastSecond(one),
  };
  const lastSecond = (row) => (row.clip === null ? -1 : data.clips[row.clip].seconds.at(-1) ?? -1);

  data.rows.forEach((row) => {
    const clip = row.clip === null ? "" : data.clips[row.clip].name;
    const said = row.answers.map((answer) => answer.text);
    row.words = [row.query, row.expected, row.category, clip, ...said, ...row.history.flat()].join("\n").toLowerCase();
  });

  const controls = Object.fromEntries(
    ["q", "category", "show", "sort"].map((key) => [key, document.getElementById(`filter-${key}`)]));
  const list = document.getElementById("rows");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  let found = [];
  let numShown = 0;

  const showCard = (row) => {
    const card = element("article", "card");
    card.tabIndex = -1;
    const head = element("p", "clip");
    const clip = row.clip === null ? null : data.clips[row.clip];
    head.textContent = [clip ? clip.name : "no clip", row.category, `row ${row.line}`].filter(Boolean).join(" · ");
    card.append(head);
    if (clip && clip.frames.length) {
      const frames = element("div", "frames");
      frames.tabIndex = 0;
      frames.setAttribute("role", "group");
      frames.setAttribute("aria-label", `frames of ${clip.name}`);
      clip.frames.forEach((picture, index) => {
        const figure = element("figure");
        const image = element("img");
        image.src = `data:image/webp;base64,${picture}`;
        image.alt = `frame at ${clip.seconds[index]} s`;
        image.loading = "lazy";
        figure.append(image, element("figcaption", "", `${clip.seconds[index]} s`));
        frames.append(figure);
      });
      card.append(frames);
    } else if (clip) {
      card.append(element("p", "rule", `no pictures: ${clip.reason}`));
    }
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

  const showMore = () => {
    const part = document.createDocumentFragment();
    for (const row of found.slice(numShown, numShown + PAGE_ROWS)) part.append(showCard(row));
    list.append(part);
    numShown = Math.min(found.length, numShown + PAGE_ROWS);
    more.hidden = numShown >= found.length;
  };

  const update = () => {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const isShown = SHOWS[state.show] ?? SHOWS.all;
    found = data.rows.filter((row) =>
      isShown(row) && (!state.category || row.category === state.category) && words.every((word) => row.words.includes(word)));
    const order = SORTS[state.sort];
    if (order) found.sort(order);
    list.replaceChildren();
    numShown = 0;
    showMore();
    const rows = data.rows.length === 1 ? "row" : "rows";
    count.textContent = found.length === data.rows.length ? `${found.length} ${rows}` : `${found.length} of ${data.rows.length} ${rows}`;
  };

  const showState = () => {
    for (const [key, control] of Object.entries(controls)) {
      control.value = state[key];
      if (control.value !== state[key]) control.value = state[key] = DEFAULTS[key];  // an address with an unknown word
    }
  };

  for (const category of [...new Set(data.rows.map((row) => row.category))].filter(Boolean).sort()) {
    const option = element("option", "", category);
    option.value = category;
    controls.category.append(option);
  }
  controls.category.parentElement.hidden = controls.category.options.length < 2;
  if (last < 1) {
    for (const control of [controls.show, controls.sort]) {
      for (const option of [...control.options]) if (option.dataset.pair !== undefined) option.remove();
    }
  }
  for (const [key, control] of Object.entries(controls)) {
    control.addEventListener("input", () => {
      state[key] = control.value;
      writeAddress();
      update();
    });
  }
  addEventListener("hashchange", () => {
    readAddress();
    applyTheme();
    showState();
    update();
  });
  more.addEventListener("click", showMore);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());

  // --- keyboard: / searches, j and k go through the rows, Escape leaves the search ---
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "Escape" && document.activeElement === controls.q) {
      controls.q.value = state.q = "";
      writeAddress();
      update();
      controls.q.blur();
    } else if (event.key === "/" && !isTyping) {
      event.preventDefault();
      controls.q.focus();
      controls.q.scrollIntoView({ block: "center" });
    } else if ((event.key === "j" || event.key === "k") && !isTyping) {
      const cards = [...list.children];
      const at = cards.indexOf(document.activeElement.closest(".card"));
      if (event.key === "j" && at === cards.length - 1 && !more.hidden) showMore();
      const next = list.children[Math.max(0, event.key === "j" ? at + 1 : at - 1)];
      if (next) {
        next.focus({ preventScroll: true });
        next.scrollIntoView({ block: "center" });
      }
    }
  });

  addEventListener("beforeprint", () => { while (numShown < found.length) showMore(); });

  document.getElementById("browser").hidden = false;
  showState();
  update();
})();
