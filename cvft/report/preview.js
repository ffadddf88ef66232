// A preview: what a model is fed of each row, and what a check has found about it.
(() => {
  const { data, element } = browse;
  const address = browse.openState({ q: "", category: "", kind: "", file: "", show: "all", sort: "order", theme: "" });
  const GRAVEST = ["error", "warning", "note"];
  const gravity = (row) => (row.findings.length ? GRAVEST.indexOf(row.findings[0].severity) : GRAVEST.length);
  const SHOWS = {
    all: () => true,
    error: (row) => gravity(row) === 0,
    warning: (row) => gravity(row) <= 1,
    found: (row) => row.findings.length > 0,
    clean: (row) => row.findings.length === 0,
  };
  const SORTS = {
    order: null,
    gravest: (one, other) => gravity(one) - gravity(other),
    longest: (one, other) => (other.num_tokens ?? 0) - (one.num_tokens ?? 0),
    clip: (one, other) => (one.clips[0] ?? -1) - (other.clips[0] ?? -1),
  };

  for (const row of data.rows) {
    const clips = row.clips.map((clip) => data.clips[clip].name);
    const found = row.findings.flatMap((finding) => [finding.kind, finding.got]);
    row.words = [row.words, row.category, row.where, ...clips, ...found].join("\n").toLowerCase();
  }

  const showFinding = (finding) => {
    const line = element("li", finding.severity);
    line.append(element("strong", "", `${finding.severity} ${finding.kind}`), `: got ${finding.got}, need ${finding.need}`);
    if (finding.hint) line.append(element("span", "why", `hint: ${finding.hint}`));
    line.title = finding.means;
    return line;
  };

  const NAMES = { prompt: "read", clip: "clip", trained: "trained" };

  const showPieces = (row) => {
    const pieces = element("dl", "pieces");
    for (const piece of row.pieces) {
      const place = piece.first === piece.last ? `${piece.first}` : `${piece.first}–${piece.last}`;
      const name = element("dt", "", NAMES[piece.kind]);
      name.append(element("span", "place", place));
      const said = element("dd", piece.kind);
      if (piece.kind === "clip") {
        const fold = element("details");
        fold.append(element("summary", "", `${piece.last - piece.first + 1} tokens of the clip`), element("code", "", piece.text));
        said.append(fold);
      } else {
        said.append(piece.kind === "trained" ? element("mark", "", piece.text) : piece.text);
      }
      pieces.append(name, said);
    }
    return pieces;
  };

  const showTexts = (row) => {
    const pieces = element("dl", "pieces");
    const line = (name, text, isTrained) => {
      const said = element("dd", isTrained ? "trained" : "prompt");
      said.append(isTrained ? element("mark", "", text) : text);
      pieces.append(element("dt", "", name), said);
    };
    if (row.system) line("system", row.system, false);
    for (const [question, answer] of row.history) {
      line("earlier", question, false);
      line("answer", answer, false);
    }
    line("query", row.query, false);
    line("trained", row.response, true);
    return pieces;
  };

  const showCard = (row) => {
    const card = element("article", "card");
    card.tabIndex = -1;
    card.append(element("p", "clip", [row.where, row.side, row.category].filter(Boolean).join(" · ")));
    if (!row.clips.length) card.append(element("p", "clip", "no clip"));
    for (const clip of row.clips.map((number) => data.clips[number])) {
      card.append(element("p", "clip", [clip.name, clip.about].filter(Boolean).join(" · ")));
      card.append(browse.showFrames(clip));
    }
    if (row.findings.length) {
      const found = element("ul", "found");
      for (const finding of row.findings) found.append(showFinding(finding));
      card.append(found);
    }
    card.append(row.pieces ? showPieces(row) : showTexts(row));
    if (row.pieces) card.append(element("p", "rule", `${row.num_tokens} tokens, of which ${row.num_trained} are trained`));
    return card;
  };

  const controls = browse.find("q", "category", "kind", "file", "show", "sort");
  browse.fillOptions(controls.category, data.rows.map((row) => row.category));
  browse.fillOptions(controls.kind, data.rows.flatMap((row) => row.findings.map((finding) => finding.kind)));
  browse.fillOptions(controls.file, data.rows.map((row) => row.file));
  controls.file.parentElement.hidden = controls.file.options.length < 3;
  browse.showRows({
    rows: data.rows,
    address,
    controls,
    matches: (row, state) =>
      (SHOWS[state.show] ?? SHOWS.all)(row)
      && (!state.category || row.category === state.category)
      && (!state.file || row.file === state.file)
      && (!state.kind || row.findings.some((finding) => finding.kind === state.kind)),
    sorts: SORTS,
    showCard,
  });
})();
