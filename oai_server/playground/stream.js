// One streamed chat completion: reads server-sent events and hands on what has arrived so far.

function addToolCalls(calls, deltas) {
  for (const delta of deltas) {
    const call = (calls[delta.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    if (delta.id) call.id = delta.id;
    if (delta.function?.name) call.function.name += delta.function.name;
    if (delta.function?.arguments) call.function.arguments += delta.function.arguments;
  }
}

async function* serverSentEvents(stream) {
  const decoder = new TextDecoder();
  let buffer = "";
  for (const reader = stream.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return;
    buffer += decoder.decode(value, { stream: true });
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const event = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
      if (data.length) yield data.join("\n");
    }
  }
}

function take(reply, chunk) {
  if (chunk.error) throw new Error(chunk.error.message);
  if (chunk.usage) reply.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  reply.content += choice.delta.content ?? "";
  reply.reasoning += choice.delta.reasoning_content ?? choice.delta.reasoning ?? "";
  addToolCalls(reply.toolCalls, choice.delta.tool_calls ?? []);
  if (choice.finish_reason) reply.finishReason = choice.finish_reason;
}

export async function streamChat(url, body, headers, signal, onPart) {
  const reply = { content: "", reasoning: "", toolCalls: [], usage: null, finishReason: null, firstTokenMs: null,
    tokensPerSecond: null, stopped: false };
  const start = performance.now();
  try {
    const response = await fetch(url, { method: "POST", signal, body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", ...headers } });
    if (!response.ok) {
      const problem = await response.json().catch(() => null);
      throw new Error(problem?.error?.message ?? `HTTP ${response.status}`);
    }
    for await (const data of serverSentEvents(response.body)) {
      if (data === "[DONE]") break;
      reply.firstTokenMs ??= performance.now() - start;
      take(reply, JSON.parse(data));
      onPart(reply);
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    reply.stopped = true;
    reply.toolCalls = []; // possibly half a call
  }
  const seconds = (performance.now() - start - (reply.firstTokenMs ?? 0)) / 1000;
  if (reply.usage?.completion_tokens > 1 && seconds > 0) {
    reply.tokensPerSecond = (reply.usage.completion_tokens - 1) / seconds;
  }
  return reply;
}
