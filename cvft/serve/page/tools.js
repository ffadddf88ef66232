"use strict";
// What the parts of the page share: elements, and what a browser remembers. Used by page.js and server.js.
const $ = (id) => document.getElementById(id);
const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const kept = (store, name, value) => {  // a browser may forbid its memory
  try {
    if (value === undefined) return store.getItem(name);
    store.setItem(name, value);
  } catch { /* then it is chosen again next time */ }
  return null;
};
