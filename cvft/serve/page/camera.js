"use strict";
// Records a clip from the camera, without sound. Used by page.js.
const Camera = (() => {
  // The first that the browser writes. Safari writes MP4 alone; what others write as MP4 lacks an index until its end.
  const TYPES = ["video/webm;codecs=vp8", "video/webm", "video/mp4"];
  const BITS_PER_SECOND = 2_500_000;

  // Browsers give the camera to pages from this machine and over https alone.
  const isThere = () => Boolean(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);

  const nameOf = (type) => {
    const now = new Date();
    const numbers = [now.getFullYear(), now.getMonth() + 1, now.getDate(), now.getHours(), now.getMinutes(), now.getSeconds()];
    return `recording-${numbers.map((number) => String(number).padStart(2, "0")).join("")}.${type.split("/")[1]}`;
  };

  // Shows the camera in `preview` and records from the moment that it shows something, `mostSeconds` at the most.
  // Returns {stop, cancel, file}: `file` becomes the clip, or null when it was cancelled.
  const record = async (preview, { mostSeconds, onSecond }) => {
    const stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } }, audio: false,
    });
    const end = () => {
      for (const track of stream.getTracks()) track.stop();
      preview.srcObject = null;
    };
    let recorder;
    try {
      preview.srcObject = stream;
      await preview.play();
      const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
      recorder = new MediaRecorder(stream, { mimeType, videoBitsPerSecond: BITS_PER_SECOND });
    } catch (error) {
      end();
      throw error;
    }
    const parts = [];
    let isCancelled = false;
    recorder.addEventListener("dataavailable", (event) => { if (event.data.size) parts.push(event.data); });
    const file = new Promise((resolve, reject) => {
      recorder.addEventListener("error", (event) => reject(event.error ?? new Error("MediaRecorder")));
      recorder.addEventListener("stop", () => {
        const [type] = recorder.mimeType.split(";");
        resolve(isCancelled ? null : new File(parts, nameOf(type), { type }));
      });
    });
    let seconds = 0;
    const timer = setInterval(() => {
      seconds += 1;
      onSecond(seconds);
      if (seconds >= mostSeconds) stop();
    }, 1000);
    const stop = () => {
      clearInterval(timer);
      if (recorder.state !== "inactive") recorder.stop();
      end();
    };
    stream.getVideoTracks()[0].addEventListener("ended", stop);  // the camera was unplugged
    recorder.start();
    onSecond(0);
    return { stop, cancel: () => { isCancelled = true; stop(); }, file };
  };

  return { isThere, record };
})();
