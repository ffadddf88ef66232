"use strict";
// A picture, or pictures that are the frames of one clip: their order, and the seconds at which they were taken. Used by page.js.
const Pictures = {
  areAll: (files) => files.length > 0 && files.every((file) => /^image\/(?!gif)/.test(file.type)),
  inOrder: (files) => [...files].sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true })),
  // one number is the distance between two pictures, several are the seconds of all; what does not fit, the server says
  seconds: (text, count) => {
    const numbers = text.trim().split(/[\s,;]+/).map(Number);
    return numbers.length > 1 ? numbers : Array.from({ length: count }, (_, at) => Number((at * numbers[0]).toFixed(3)));
  },
};
