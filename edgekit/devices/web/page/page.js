// Connects to edgekit, passes its requests to a worker, and shows what edgekit says.
import {facts} from "./facts.js";

const AGAIN_MS = 2000;
const own = (sessionStorage.browser ??= Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join(""));
const known = await facts();
const answers = new Map(); // those of the request in progress, until edgekit has sent the next one
let socket, worker, current, hidden = document.hidden, over = false;

function show({state, title, text = "", done = null, total = null}) {
  document.body.dataset.state = state;
  for (const [id, value] of Object.entries({title, text})) document.getElementById(id).textContent = value;
  const bar = document.querySelector("progress");
  bar.hidden = state !== "working";
  if (total === null) bar.removeAttribute("value");
  else (bar.max = total), (bar.value = done);
  document.title = `${title} – edgekit`;
}

function send(id, answer) {
  answers.set(id, answer);
  if (socket.readyState !== WebSocket.OPEN) return; // sent when edgekit asks again
  if (answer.result instanceof Float32Array) {
    const frame = new Uint8Array(4 + answer.result.byteLength);
    new DataView(frame.buffer).setUint32(0, id, true);
    frame.set(new Uint8Array(answer.result.buffer), 4);
    socket.send(frame);
  } else socket.send(JSON.stringify({id, ...answer}));
}

function started() {
  const made = new Worker("worker.js");
  made.onmessage = ({data: {id, done, ...answer}}) => {
    if (id !== current) return;
    if (done !== undefined) {
      const bar = document.querySelector("progress");
      if (bar.hasAttribute("value")) bar.value = done; // else edgekit counts no steps of it
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({id, done}));
      return;
    }
    if (answer.result && !(answer.result instanceof Float32Array)) answer.result.hidden = hidden;
    send(id, answer);
  };
  made.onerror = (event) => send(current, {error: `the page's worker failed: ${event.message}`});
  return made;
}

function ask(request) {
  if (answers.has(request.id)) return send(request.id, answers.get(request.id));
  if (request.id === current) return; // still at work
  answers.clear();
  current = request.id;
  hidden = document.hidden;
  if (request.operation === "open") worker?.terminate(), (worker = null);
  worker ??= started();
  worker.postMessage(request);
}

const OPERATIONS = {
  show,
  end(said) {
    over = true;
    worker?.terminate();
    lock?.release();
    show(said);
  },
};

function connect() {
  socket = new WebSocket(new URL("socket", location.href).href.replace(/^http/, "ws"));
  socket.onopen = () => socket.send(JSON.stringify({browser: own, facts: known}));
  socket.onmessage = ({data}) => {
    const request = JSON.parse(data);
    (OPERATIONS[request.operation] ?? ask)(request);
  };
  socket.onclose = () => {
    if (over) return;
    show({state: "waiting", title: "Connecting …", text: "edgekit does not answer. If it was stopped, close this page."});
    setTimeout(connect, AGAIN_MS);
  };
}

let lock;
async function stayAwake() {
  hidden ||= document.hidden;
  if (document.hidden || over) return;
  try {
    lock = await navigator.wakeLock.request("screen");
  } catch {
    document.getElementById("awake").hidden = false; // not a secure page, or the browser can't
  }
}
document.addEventListener("visibilitychange", stayAwake);
stayAwake();
connect();
