"use strict";
// What every page of ours shares: elements, theme, the state in the address, and a list of rows that is searched, filtered,
// sorted and walked through by keyboard. All text goes in as text, never as markup.
const browse = (() => {
  const PAGE_ROWS = 40;

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
  const openState = (defaults) => {
    const state = { ...defaults };
    const read = () => {
      const given = new URLSearchParams(location.hash.slice(1));
      for (const key of Object.keys(defaults)) state[key] = given.get(key) ?? defaults[key];
    };
    const write = () => {
      const said = new URLSearchParams();
      for (const [key, value] of Object.entries(state)) if (value !== defaults[key]) said.set(key, value);
      const hash = said.toString();
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    };
    const applyTheme = () => {
      if (state.theme) document.documentElement.dataset.theme = state.theme;
      else delete document.documentElement.dataset.theme;
      showTheme();
    };
    read();
    applyTheme();
    themeButton.hidden = false;
    themeButton.addEventListener("click", () => {
      state.theme = isDark() ? "light" : "dark";
      applyTheme();
      write();
    });
    return { state, defaults, read, write, applyTheme };
  };

  // --- pictures of a clip ---
  const showFrames = (clip) => {
    if (!clip.frames.length) return element("p", "rule", `no pictures: ${clip.reason}`);
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
    return frames;
  };

  const fillOptions = (control, values) => {
    for (const value of [...new Set(values)].filter(Boolean).sort()) {
      const option = element("option", "", value);
      option.value = value;
      control.append(option);
    }
    control.parentElement.hidden = control.options.length < 2;
  };

  // --- the list: rows with their `words`; `matches` and `sorts` by the state; `showCard` makes an article of a row ---
  const showRows = ({ rows, address, controls, matches, sorts, showCard }) => {
    const { state, defaults } = address;
    const list = document.getElementById("rows");
    const more = document.getElementById("more");
    const count = document.getElementById("count");
    let found = [];
    let numShown = 0;

    const showMore = () => {
      const part = document.createDocumentFragment();
      for (const row of found.slice(numShown, numShown + PAGE_ROWS)) part.append(showCard(row));
      list.append(part);
      numShown = Math.min(found.length, numShown + PAGE_ROWS);
      more.hidden = numShown >= found.length;
    };

    const update = () => {
      const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
      found = rows.filter((row) => matches(row, state) && words.every((word) => row.words.includes(word)));
      const order = sorts[state.sort];
      if (order) found.sort(order);
      list.replaceChildren();
      numShown = 0;
      showMore();
      const name = rows.length === 1 ? "row" : "rows";
      count.textContent = found.length === rows.length ? `${found.length} ${name}` : `${found.length} of ${rows.length} ${name}`;
    };

    const showState = () => {
      for (const [key, control] of Object.entries(controls)) {
        control.value = state[key];
        if (control.value !== state[key]) control.value = state[key] = defaults[key];  // an address with an unknown word
      }
    };

    for (const [key, control] of Object.entries(controls)) {
      control.addEventListener("input", () => {
        state[key] = control.value;
        address.write();
        update();
      });
    }
    addEventListener("hashchange", () => {
      address.read();
      address.applyTheme();
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
        address.write();
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
  };

  const source = document.getElementById("cards");
  const data = source ? JSON.parse(source.textContent) : null;
  const find = (...keys) => Object.fromEntries(keys.map((key) => [key, document.getElementById(`filter-${key}`)]));
  return { data, element, fillOptions, find, openState, showFrames, showRows };
})();
