"use strict";
// A question as what a terminal and a Python program would send. Used by page.js.
const placeOf = (at) => `\uE000${at}\uE000`;  // stands in messages where a file's data URL comes; nobody types that letter

const asCode = ({ base, hasKey, model, messages, settings, files, frame_seconds }) => {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const escaped = (text) => text.replaceAll(/[\\$`]/g, "\\$&");
  const ofFrames = frame_seconds ? { frame_seconds } : {};
  const body = JSON.stringify({ model, messages, ...ofFrames, ...settings }, null, 2);
  const pieces = body.split(/\uE000(\d+)\uE000/);  // every second one is the number of a file
  const auth = hasKey ? ' \\\n  -H "Authorization: Bearer $CVFT_API_KEY"' : "";
  const dataOf = ({ name, type }) => `data:${type};base64,$(base64 -w0 ${quoted(name)})`;
  const sent = pieces.length === 1 ? quoted(body)
    : `@- <<EOF\n${pieces.map((piece, at) => (at % 2 ? dataOf(files[piece]) : escaped(piece))).join("")}\nEOF`;
  const curl = `curl ${base}/chat/completions \\\n  -H 'Content-Type: application/json'${auth} \\\n  --data-binary ${sent}`;
  const callOf = ({ name, type }) => `data_url(${JSON.stringify(name)}, ${JSON.stringify(type)})`;
  const asPython = JSON.stringify(messages, null, 4).replaceAll(/"\uE000(\d+)\uE000"/g, (_, at) => callOf(files[at]));
  const more = Object.entries(settings).map(([field, value]) => `, ${field}=${value}`);
  if (frame_seconds) more.push(`, extra_body=${JSON.stringify(ofFrames)}`);
  const python = [
    "import base64", "", ...(hasKey ? ["import os", ""] : []), "from openai import OpenAI", "",
    `client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${hasKey ? 'os.environ["CVFT_API_KEY"]' : '"none"'})`, "", "",
    ...(pieces.length === 1 ? [] : [
      "def data_url(name, kind):",
      "    return f\"data:{kind};base64,{base64.b64encode(open(name, 'rb').read()).decode()}\"", "", "",
    ]),
    `messages = ${asPython}`,
    `answer = client.chat.completions.create(model=${JSON.stringify(model)}, messages=messages${more.join("")})`,
    "print(answer.choices[0].message.content)",
  ].join("\n");
  return { curl, python };
};
