// The exact request as curl and as Python with the official client.

export function curlSnippet(origin, body, withKey) {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const key = withKey ? " -H \"Authorization: Bearer $OPENAI_API_KEY\" \\\n " : "";
  return `curl -N ${origin}/v1/chat/completions \\\n ${key} -H 'Content-Type: application/json' -d '${quoted}'`;
}

const NATIVE = new Set(["model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "seed",
  "stop", "tools"]);

function pythonValue(value, indent = "    ") {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) {
    if (!value.length) return "[]";
    return `[\n${value.map((item) => `${indent}    ${pythonValue(item, `${indent}    `)},\n`).join("")}${indent}]`;
  }
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${pythonValue(v, indent)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

export function pythonSnippet(origin, body, withKey) {
  const named = Object.entries(body).filter(([name]) => NATIVE.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !NATIVE.has(name)));
  const lines = named.map(([name, value]) => `    ${name}=${pythonValue(value)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${pythonValue(extra)},`);
  const key = withKey ? 'os.environ["OPENAI_API_KEY"]' : '"none"';
  return `${withKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key=${key})
stream = client.chat.completions.create(
${lines.join("\n")}
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)`;
}
