"use strict";
// Requests to the server, with its key. Used by page.js.
const Server = (() => {
  let key = kept(sessionStorage, "key") ?? "";
  const headers = (more) => (key ? { ...more, authorization: `Bearer ${key}` } : { ...more });
  const fail = async (response) => {
    let text = `HTTP ${response.status}`;
    try { text = (await response.json()).error.message; } catch { /* it was no answer of ours */ }
    return new Error(text);
  };
  const send = async (path, body, type, signal) => {
    const response = await fetch(path, { method: "POST", body, headers: headers({ "content-type": type }), signal });
    if (!response.ok) throw await fail(response);
    return response;
  };
  return {
    hasKey: () => Boolean(key),
    useKey: (text) => {
      key = text;
      kept(sessionStorage, "key", key);
    },
    models: () => fetch("v1/models", { headers: headers() }),
    ask: (path, body, signal) => send(path, JSON.stringify(body), "application/json", signal),
    keep: async (file, type) => (await (await send("clips", file, type)).json()).url,
  };
})();
