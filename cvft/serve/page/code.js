"use strict";
// A question as what a terminal and a Python program would send. Used by page.js.
const CLIP_URL = "\uE000clip";  // stands in messages where the clip's data URL comes; nobody types that letter

const asCode = ({ base, hasKey, model, messages, settings, name, type }) => {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const escaped = (text) => text.replaceAll(/[\\$`]/g, "\\$&");
  const body = JSON.stringify({ model, messages, ...settings }, null, 2);
  const [before, after] = body.split(CLIP_URL);
  const auth = hasKey ? ' \\\n  -H "Authorization: Bearer $CVFT_API_KEY"' : "";
  const sent = after === undefined ? quoted(body)
    : `@- <<EOF\n${escaped(before)}data:${type};base64,$(base64 -w0 ${quoted(name)})${escaped(after)}\nEOF`;
  const curl = `curl ${base}/chat/completions \\\n  -H 'Content-Type: application/json'${auth} \\\n  --data-binary ${sent}`;
  const asPython = JSON.stringify(messages, null, 4);
  const more = Object.entries(settings).map(([field, value]) => `, ${field}=${value}`).join("");
  const python = [
    "import base64", "", ...(hasKey ? ["import os", ""] : []), "from openai import OpenAI", "",
    `client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${hasKey ? 'os.environ["CVFT_API_KEY"]' : '"none"'})`,
    ...(after === undefined ? [] : [`clip = base64.b64encode(open(${JSON.stringify(name)}, "rb").read()).decode()`]),
    `messages = ${asPython.replaceAll(JSON.stringify(CLIP_URL), `f"data:${type};base64,{clip}"`)}`,
    `answer = client.chat.completions.create(model=${JSON.stringify(model)}, messages=messages${more})`,
    "print(answer.choices[0].message.content)",
  ].join("\n");
  return { curl, python };
};
