"use strict";
// The page of `cvft serve`: a clip, its frames, questions about it. All text goes in as text, never as markup.
(() => {
  // --- language and theme ---
  let language = kept(localStorage, "language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
  if (!(language in TEXTS)) language = "en";
  let t = TEXTS[language];
  let saying = null;  // which text the status line shows
  const isDark = () => document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const showWords = () => {
    t = TEXTS[language];
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
    for (const each of document.querySelectorAll("[data-t]")) each.textContent = t[each.dataset.t];
    $("language").textContent = t.other;
    $("language").setAttribute("aria-label", t.otherLabel);
    $("theme").textContent = isDark() ? t.light : t.dark;
    $("frames").setAttribute("aria-label", t.frames);
    $("camera").setAttribute("aria-label", t.camera);
    if (saying) $("status").textContent = t[saying];
    if (clip.shown) nameFrames();
  };
  const say = (name, text) => {
    saying = name;
    $("status").textContent = name ? t[name] : text ?? "";
  };
  $("language").addEventListener("click", () => {
    language = language === "en" ? "zh" : "en";
    kept(localStorage, "language", language);
    showWords();
  });
  const setTheme = (theme) => {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  };
  $("theme").addEventListener("click", () => {
    setTheme(isDark() ? "light" : "dark");
    kept(localStorage, "theme", document.documentElement.dataset.theme);
    showWords();
  });

  // --- the server ---
  let models = [];
  let takesImages = new Set();  // those to whom a picture is more than a clip of one frame
  const findModels = async () => {
    let response;
    try { response = await Server.models(); } catch { say("gone"); return void setTimeout(findModels, 3000); }
    if (response.status === 401) {
      say(Server.hasKey() ? "wrongKey" : null);
      $("key-form").hidden = false;
      $("key").focus();
      return;
    }
    $("key-form").hidden = true;
    const { data } = response.ok ? await response.json() : { data: [] };
    models = data.map((model) => model.id);
    takesImages = new Set(data.filter((model) => model.takes_images).map((model) => model.id));
    if (!models.length) { say("loading"); return void setTimeout(findModels, 1000); }
    say(null);
    $("models").textContent = models.join(" · ");
    for (const name of models.length > 1 ? models : []) {
      const label = element("label");
      const box = element("input");
      box.type = "checkbox";
      box.value = name;
      box.checked = true;
      label.append(box, name);
      $("choices").append(label);
    }
    $("choices").hidden = models.length < 2;
    showReady();
  };
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    Server.useKey($("key").value.trim());
    findModels();
  });
  const chosen = () => (models.length < 2 ? models : [...$("choices").querySelectorAll("input:checked")].map((box) => box.value));

  // --- the clip ---
  // `kind`: a video; frames, with the second of each; a picture, which needs none
  const clip = { files: [], kind: "video", seconds: null, parts: null, shown: null, turn: 0 };
  const player = $("player");
  const light = (start, end) => {
    const frames = [...$("frames").children];
    const seconds = clip.shown ? clip.shown.frames.map((frame) => frame.second) : [];
    const inside = seconds.map((second) => second >= start && second <= end);
    if (!inside.includes(true) && seconds.length) {
      inside[seconds.reduce((best, second, at) => (Math.abs(second - start) < Math.abs(seconds[best] - start) ? at : best), 0)] = true;
    }
    frames.forEach((frame, at) => frame.classList.toggle("lit", inside[at]));
    const strip = $("frames").getBoundingClientRect();
    const first = frames[inside.indexOf(true)];
    if (first) $("frames").scrollLeft += first.getBoundingClientRect().left - strip.left - strip.width / 3;
  };
  const jump = (start, end) => {
    light(start, end);
    if (player.hidden || !player.src) return;
    player.pause();
    player.currentTime = start;
    player.scrollIntoView({ block: "nearest" });
  };
  const nameFrames = () => {
    const { frames, duration_s: length, notes } = clip.shown;
    $("facts").textContent = [isImage() ? t.shownPicture : t.shown(frames.length, length), ...notes].join(" ");
    [...$("frames").querySelectorAll("img")].forEach((image, at) => { image.alt = isImage() ? t.picture : t.frame(frames[at].second); });
  };
  const showFrames = () => {
    $("frames").replaceChildren(...clip.shown.frames.map((frame) => {
      const button = element("button");
      button.type = "button";
      const image = element("img");
      image.src = frame.picture;
      button.append(image, isImage() ? "" : `${frame.second} s`);
      button.addEventListener("click", () => jump(frame.second, frame.second));
      return button;
    }));
    nameFrames();
  };
  const partsOf = (urls) => urls.map((url) => (clip.kind === "video" ? { type: "video_url", video_url: { url } } : { type: "image_url", image_url: { url } }));
  const isImage = () => clip.kind === "picture" && takesImages.has(chosen()[0] ?? models[0]);
  const withSeconds = () => (clip.seconds ? { frame_seconds: clip.seconds } : {});
  const showClip = async (files, { isRecorded = false, kind = "video", seconds = null } = {}) => {
    const turn = ++clip.turn;  // a later choice wins
    stop();
    cameraTurn += 1;
    camera?.cancel();
    $("save").hidden = !isRecorded;
    $("pictures").hidden = true;
    const typeOf = (file) => (/^(video|image)\//.test(file.type) ? file.type : "video/mp4");
    Object.assign(clip, { kind, seconds, parts: null, shown: null, files: files.map((file) => ({ name: file.name, type: typeOf(file) })) });
    $("name").textContent = files.length > 1 ? t.pictures(files.length, files[0].name) : files[0].name;
    $("frames").replaceChildren();
    $("facts").textContent = "";
    $("unplayable").hidden = true;
    clear();
    if (player.src) URL.revokeObjectURL(player.src);
    player.hidden = kind !== "video";
    if (player.hidden) player.removeAttribute("src");
    else player.src = URL.createObjectURL(files[0]);
    if (isRecorded) Object.assign($("save"), { href: player.src, download: files[0].name });
    try {
      say("sending");
      const urls = [];
      for (const [at, file] of files.entries()) {
        urls.push(await Server.keep(file, clip.files[at].type));
        if (turn !== clip.turn) return;
      }
      say("looking");
      const parts = partsOf(urls);
      const messages = [{ role: "user", content: parts }];
      const shown = await (await Server.ask("frames", { model: chosen()[0] ?? models[0], messages, ...withSeconds() })).json();
      if (turn !== clip.turn) return;
      Object.assign(clip, { parts, shown });
      say(null);
      showFrames();
      $("query").focus({ preventScroll: true });
    } catch (error) {
      if (turn === clip.turn) say(null, error.message);
      $("pictures").hidden = turn !== clip.turn || files.length < 2;  // their seconds can be put right
    }
    showReady();
  };
  player.addEventListener("error", () => {
    if (!player.getAttribute("src")) return;
    player.hidden = true;
    $("unplayable").hidden = false;
  });
  let pictures = [];  // that wait for their seconds
  const choose = (files) => {
    if (!Pictures.areAll(files)) return showClip([files[0]]);
    pictures = Pictures.inOrder(files);
    if (pictures.length === 1) return showClip(pictures, { kind: "picture" });
    $("name").textContent = t.pictures(pictures.length, pictures[0].name);
    $("pictures").hidden = false;
    $("seconds").focus();
  };
  $("pictures").addEventListener("submit", (event) => {
    event.preventDefault();
    showClip(pictures, { kind: "frames", seconds: Pictures.seconds($("seconds").value, pictures.length) });
  });
  $("file").addEventListener("change", () => { if ($("file").files.length) choose([...$("file").files]); });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length && models.length) choose([...event.dataTransfer.files]);
    });
  }

  addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length || !models.length) return;
    event.preventDefault();
    choose([...event.clipboardData.files]);
  });

  // --- the camera ---
  const MOST_RECORDED_S = 60;
  let camera = null;
  let cameraTurn = 0;
  const CAMERA_ERRORS = { NotAllowedError: "denied", NotFoundError: "noCamera", NotReadableError: "busyCamera" };
  const showCamera = (state) => {  // none, asked, on
    $("record").hidden = state !== "none" || !Camera.isThere();
    for (const id of ["record-stop", "record-cancel", "camera"]) $(id).hidden = state !== "on";
    $("recorded").textContent = "";
  };
  const record = async () => {
    const turn = ++cameraTurn;  // a clip that is chosen meanwhile wins
    player.pause();
    showCamera("asked");
    $("camera").hidden = false;  // a video that is not shown does not play everywhere
    try {
      const onSecond = (second) => { $("recorded").textContent = `${second} s / ${MOST_RECORDED_S} s`; };
      camera = await Camera.record($("camera"), { mostSeconds: MOST_RECORDED_S, onSecond });
      if (turn !== cameraTurn) camera.cancel();
      else {
        showCamera("on");
        say("recording");
        $("record-stop").focus();
      }
      const file = await camera.file;
      camera = null;
      if (turn !== cameraTurn) return showCamera("none");
      say(null);
      showCamera("none");
      $("record").focus();
      if (file) await showClip([file], { isRecorded: true });
    } catch (error) {
      camera = null;
      showCamera("none");
      if (turn !== cameraTurn) return;
      say(CAMERA_ERRORS[error.name] ?? null, error.message);
      $("record").focus();
    }
  };
  $("record").addEventListener("click", record);
  $("record-stop").addEventListener("click", () => camera?.stop());
  $("record-cancel").addEventListener("click", () => camera?.cancel());

  // --- questions ---
  let talks = {};  // per model, the messages so far
  let running = null;
  const showReady = () => {
    const waits = clip.files.length && clip.parts === null;
    $("send").disabled = !models.length || running !== null || waits;
    for (const id of ["file", "record"]) $(id).disabled = !models.length;
    $("stop").hidden = running === null;
    $("clear").disabled = !$("turns").children.length;
  };
  const stop = () => running?.abort();
  const clear = () => {
    talks = {};
    $("turns").replaceChildren();
    showReady();
  };
  const settings = () => {
    const said = {};
    if ($("most").value) said.max_completion_tokens = Number($("most").value);
    if ($("temperature").value) said.temperature = Number($("temperature").value);
    if ($("seed").value) said.seed = Number($("seed").value);
    return said;
  };
  const messagesFor = (model, query) => {
    const before = talks[model] ?? [];
    const content = !before.length && clip.parts ? [...clip.parts, { type: "text", text: query }] : query;
    return [...before, { role: "user", content }];
  };
  const linkTimes = async (said, text) => {
    const { pieces } = await (await Server.ask("times", { text })).json();
    said.replaceChildren(...pieces.map((piece) => {
      if (piece.start_s === undefined) return document.createTextNode(piece.text);
      const link = element("button", "jump", piece.text.trim());
      link.type = "button";
      link.setAttribute("aria-label", t.jump(piece.text));
      link.addEventListener("click", () => jump(piece.start_s, piece.end_s));
      const [before, after] = [/^\s*/, /\s*$/].map((edge) => piece.text.match(edge)[0]);
      const part = document.createDocumentFragment();
      part.append(before, link, after);
      return part;
    }));
  };
  const answer = async (model, query, box, signal) => {
    const messages = messagesFor(model, query);
    const said = box.querySelector("p");
    let text = "";
    const note = (word) => box.append(element("p", "rule", word));
    try {
      const response = await Server.ask("v1/chat/completions", { model, messages, stream: true, ...withSeconds(), ...settings() }, signal);
      for await (const chunk of events(response)) {
        if (chunk.error) throw new Error(chunk.error.message);
        const [choice] = chunk.choices;
        text += choice?.delta.content ?? "";
        said.textContent = text;
        if (choice?.finish_reason === "length") note(t.cut);
      }
      talks[model] = [...messages, { role: "assistant", content: text }];
      if (!text) note(t.empty);
      else if (clip.shown && clip.kind !== "picture") await linkTimes(said, text).catch(() => {});
    } catch (error) {
      if (error.name === "AbortError") return note(t.stopped);
      box.classList.add("failed");
      said.textContent = text ? `${text}\n${error.message}` : error.message;
    }
  };
  const ask = async () => {
    const query = $("query").value.trim();
    const who = chosen();
    if ($("send").disabled || !query) return;
    if (!who.length) return say("noModel");
    say(null);
    const turn = element("article", "card turn");
    const answers = element("div", "answers");
    turn.append(element("h3", "", query), answers);
    const boxes = who.map((model) => {
      const box = element("div", "answer");
      box.dataset.model = model;
      box.append(element("h4", "", model), element("p"));
      answers.append(box);
      return box;
    });
    $("turns").append(turn);
    $("query").value = "";
    running = new AbortController();
    turn.setAttribute("aria-busy", "true");
    showReady();
    turn.scrollIntoView({ block: "nearest" });
    await Promise.all(who.map((model, at) => answer(model, query, boxes[at], running.signal)));
    turn.setAttribute("aria-live", "polite");
    turn.removeAttribute("aria-busy");
    running = null;
    showReady();
    $("ask").scrollIntoView({ block: "nearest" });
  };
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("query").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  $("stop").addEventListener("click", stop);
  $("clear").addEventListener("click", () => { stop(); clear(); $("query").focus(); });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !$("code").open) { stop(); camera?.cancel(); }
    const isTyping = /^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey && !$("code").open) {
      event.preventDefault();
      $("query").focus();
    }
  });

  // --- the same as curl and Python ---
  const showCode = () => {
    const model = chosen()[0] ?? models[0] ?? "";
    const query = $("query").value.trim() || "What is shown?";
    const placed = partsOf(clip.files.map((_, at) => placeOf(at)));
    const messages = messagesFor(model, query).map(({ role, content }) => (
      typeof content === "string" ? { role, content } : { role, content: [...placed, ...content.slice(placed.length)] }));
    const { curl, python } = asCode({
      base: new URL("v1", location.href).href, hasKey: Server.hasKey(), model, messages, settings: settings(), files: clip.files, ...withSeconds(),
    });
    $("as-curl").textContent = curl;
    $("as-python").textContent = python;
  };
  $("copy").addEventListener("click", () => { showCode(); $("code").showModal(); });
  $("close").addEventListener("click", () => $("code").close());
  for (const button of document.querySelectorAll(".copies")) {
    button.addEventListener("click", async () => {
      const source = $(button.dataset.from);
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = t.copied;
        setTimeout(() => { button.textContent = t.copyThis; }, 1500);
      } catch {  // no clipboard without https or permission: select it, for the keyboard
        getSelection().selectAllChildren(source);
        source.focus();
      }
    });
  }

  showCamera("none");
  setTheme(kept(localStorage, "theme"));
  showWords();
  showReady();
  findModels();
})();
