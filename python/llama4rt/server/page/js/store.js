// Conversations on this machine: IndexedDB, or only memory where the browser gives none (a private window).

const memory = new Map();
let opened = null;
let isKept = true;

export const keeps = () => isKept;

function open() {
  opened ??= new Promise((done, failed) => {
    const request = indexedDB.open("llama4rt", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close();
      done(request.result);
    };
    request.onerror = () => failed(request.error);
    request.onblocked = () => failed(new Error("another tab holds an older version open"));
  }).catch(() => { isKept = false; return null; });
  return opened;
}

async function using(mode, act) {
  const database = await open();
  if (!database) return undefined;
  return new Promise((done, failed) => {
    const transaction = database.transaction("conversations", mode);
    const request = act(transaction.objectStore("conversations"));
    transaction.oncomplete = () => done(request?.result);
    transaction.onerror = transaction.onabort = () => failed(transaction.error);
  });
}

export async function save(conversation) {
  const copy = structuredClone(conversation);
  if (!(await open())) memory.set(copy.id, copy);
  else await using("readwrite", (shelf) => shelf.put(copy));
}

export async function load(id) {
  return (await open()) ? using("readonly", (shelf) => shelf.get(id)) : structuredClone(memory.get(id));
}

export async function remove(id) {
  memory.delete(id);
  await using("readwrite", (shelf) => shelf.delete(id));
}

export async function clear() {
  memory.clear();
  await using("readwrite", (shelf) => shelf.clear());
}

export async function all() {
  return (await open()) ? using("readonly", (shelf) => shelf.getAll()) : structuredClone([...memory.values()]);
}

// What the list needs of each, newest first. One at a time: pictures make conversations large.
export async function heads(wanted = null) {
  const out = [];
  const look = (conversation) => {
    if (wanted === null || wanted(conversation))
      out.push({ id: conversation.id, title: conversation.title, updated: conversation.updated });
  };
  if (await open()) {
    await using("readonly", (shelf) => {
      const request = shelf.openCursor();
      request.onsuccess = () => {
        if (!request.result) return;
        look(request.result.value);
        request.result.continue();
      };
      return null;
    });
  } else for (const conversation of memory.values()) look(conversation);
  return out.sort((a, b) => b.updated - a.updated);
}
