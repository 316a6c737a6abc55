// The chat: what was said, sending, streaming, stopping. Model output is only ever set as text, never as HTML.
import { streamChat } from "./stream.js";
import { curlSnippet, pythonSnippet } from "./snippets.js";
import { startPanel } from "./panel.js";

const $ = (id) => document.getElementById(id);
const EXAMPLES = ["Hello! Who are you?", "Count from 3 to 12.", "What is 47 + 38?", "你好，你是谁？",
  "My name is Ada and I like tea.", "Write a short story about a fox."];
const EXAMPLE_TOOL = [{ type: "function", function: { name: "get_weather", description: "Current weather of a city",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } } }];

let messages = [];
let model = "";
let running = null; // AbortController of the answer that is being streamed
let language = "curl";

const headers = () => ($("key").value ? { Authorization: `Bearer ${$("key").value}` } : {});

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// ``` fences become code blocks; all else stays text as it came.
function showText(node, text) {
  const parts = text.split(/^```[^\n`]*\n([^]*?)^```[ \t]*$\n?/m);
  node.replaceChildren(...parts.map((part, place) => (place % 2 ? element("pre", "", part.trimEnd()) : part)));
}

function number(id) {
  return $(id).value === "" ? undefined : Number($(id).value);
}

function readTools() {
  const text = $("tools").value.trim();
  $("tools-error").hidden = true;
  if (!text) return undefined;
  try {
    const tools = JSON.parse(text);
    if (!Array.isArray(tools)) throw new Error("a JSON list is needed");
    return tools.length ? tools : undefined;
  } catch (error) {
    $("tools-error").textContent = `Tools: ${error.message}`;
    $("tools-error").hidden = false;
    return undefined;
  }
}

function requestBody(extra = []) {
  const system = $("system").value.trim();
  const body = {
    model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages, ...extra],
    stream: true,
    stream_options: { include_usage: true },
    temperature: number("temperature"),
    top_p: number("top_p"),
    top_k: number("top_k"),
    max_tokens: number("max_tokens"),
    seed: number("seed"),
    stop: $("stop").value || undefined,
    tools: readTools(),
    chat_template_kwargs: { enable_thinking: $("thinking").checked },
  };
  return JSON.parse(JSON.stringify(body)); // drops what is undefined
}

function showSnippet() {
  const draft = $("input").value.trim();
  const body = requestBody(draft ? [{ role: "user", content: draft }] : []);
  const make = language === "curl" ? curlSnippet : pythonSnippet;
  $("snippet").textContent = make(location.origin, body, Boolean($("key").value));
}

function addMessage(role) {
  const item = element("li", role);
  const thinking = element("details");
  thinking.append(element("summary", "", "thinking"), element("div", "body"));
  thinking.hidden = true;
  const body = element("div", "body");
  const calls = element("div");
  const meta = element("div", "meta");
  item.append(thinking, body, calls, meta);
  $("messages").append(item);
  return { item, thinking, thought: thinking.lastChild, body, calls, meta };
}

function scrollDown() {
  $("messages").scrollTop = $("messages").scrollHeight;
}

function showCall(view, call) {
  const box = element("div", "call", `${call.function.name}(${call.function.arguments})`);
  const form = element("form");
  const input = element("input");
  input.placeholder = "result of this call, e.g. {\"temperature_c\": 21}";
  input.setAttribute("aria-label", `Result of ${call.function.name}`);
  form.append(input, element("button", "", "Give result"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) return;
    form.remove();
    messages.push({ role: "tool", tool_call_id: call.id, content: input.value });
    addMessage("tool").body.textContent = input.value;
    if (!view.calls.querySelector("form")) answer();
  });
  box.append(form);
  view.calls.append(box);
}

function finish(view, reply) {
  showText(view.body, reply.content);
  const message = { role: "assistant", content: reply.content || null };
  if (reply.toolCalls.length) message.tool_calls = reply.toolCalls;
  messages.push(message);
  reply.toolCalls.forEach((call) => showCall(view, call));
  const parts = [];
  if (reply.usage) parts.push(`${reply.usage.prompt_tokens} + ${reply.usage.completion_tokens} tokens`);
  if (reply.firstTokenMs !== null) parts.push(`first after ${reply.firstTokenMs.toFixed(0)} ms`);
  if (reply.tokensPerSecond) parts.push(`${reply.tokensPerSecond.toFixed(0)} tokens/s`);
  if (reply.finishReason && reply.finishReason !== "stop") parts.push(reply.finishReason.replace("_", " "));
  if (reply.stopped) parts.push("stopped");
  view.meta.textContent = parts.join(", ");
}

async function answer() {
  const conversation = messages;
  const view = addMessage("assistant");
  const body = requestBody();
  running = new AbortController();
  $("send").hidden = true;
  $("stop-button").hidden = false;
  try {
    const reply = await streamChat("v1/chat/completions", body, headers(), running.signal, (part) => {
      const atEnd = $("messages").scrollHeight - $("messages").scrollTop - $("messages").clientHeight < 60;
      view.thinking.hidden = !part.reasoning;
      view.thought.textContent = part.reasoning;
      view.body.textContent = part.content;
      if (atEnd) scrollDown();
    });
    if (messages === conversation) finish(view, reply); // else a new chat was begun meanwhile
  } catch (error) {
    view.body.textContent += view.body.textContent ? "\n" : "";
    view.body.append(element("span", "error", error.message));
  } finally {
    running = null;
    $("send").hidden = false;
    $("stop-button").hidden = true;
    $("input").focus();
    scrollDown();
    showSnippet();
  }
}

function send(text) {
  if (!text.trim() || running) return;
  $("examples").hidden = true;
  messages.push({ role: "user", content: text });
  addMessage("user").body.textContent = text;
  scrollDown();
  answer();
}

function grow() {
  $("input").style.height = "auto";
  $("input").style.height = `${$("input").scrollHeight + 2}px`;
}

function toggle(button, panel) {
  const open = $(panel).hidden;
  $(panel).hidden = !open;
  $(button).setAttribute("aria-expanded", String(open));
}

function wire() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("input").value;
    if (!text.trim() || running) return;
    $("input").value = "";
    grow();
    send(text);
  });
  $("input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("composer").requestSubmit();
    }
  });
  $("input").addEventListener("input", grow);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) running.abort();
  });
  $("stop-button").addEventListener("click", () => running && running.abort());
  $("clear").addEventListener("click", () => {
    if (running) running.abort();
    messages = [];
    $("messages").replaceChildren();
    $("examples").hidden = false;
    showSnippet();
  });
  $("show-settings").addEventListener("click", () => toggle("show-settings", "settings"));
  $("show-live").addEventListener("click", () => toggle("show-live", "live"));
  $("example-tool").addEventListener("click", () => {
    $("tools").value = JSON.stringify(EXAMPLE_TOOL, null, 1);
    showSnippet();
  });
  $("copy").addEventListener("click", async () => {
    if (!navigator.clipboard) { // plain http from another machine
      getSelection().selectAllChildren($("snippet"));
      return;
    }
    await navigator.clipboard.writeText($("snippet").textContent);
    $("copy").textContent = "Copied";
    setTimeout(() => { $("copy").textContent = "Copy"; }, 1200);
  });
  for (const name of ["curl", "python"]) {
    $(`tab-${name}`).addEventListener("click", () => {
      language = name;
      for (const other of ["curl", "python"]) $(`tab-${other}`).setAttribute("aria-selected", String(other === name));
      showSnippet();
    });
  }
  $("key").addEventListener("change", loadModel);
  document.addEventListener("input", showSnippet);
  for (const text of EXAMPLES) {
    const button = element("button", "", text);
    button.type = "button";
    button.addEventListener("click", () => send(text));
    $("examples").append(button);
  }
  if (matchMedia("(max-width: 60rem)").matches) toggle("show-live", "live");
}

async function loadModel() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (response.status === 401) {
      $("model").textContent = "API key needed";
      if ($("settings").hidden) toggle("show-settings", "settings");
      return;
    }
    model = (await response.json()).data[0].id;
    $("model").textContent = model;
    document.title = `${model} playground`;
    showSnippet();
  } catch {
    setTimeout(loadModel, 1000);
  }
}

wire();
loadModel();
startPanel(headers);
