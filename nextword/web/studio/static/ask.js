// Requests to the server. A failure is thrown as an Error whose message is a sentence to show; its `refused` is true
// where the server answered 400: the question itself cannot be answered.

export async function ask(name, question) {
  const response = await sent(name, question);
  return response.json();
}

export async function askPage(name, question) {
  const response = await sent(name, question);
  return response.blob();
}

async function sent(name, question) {
  const options = question === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question) };
  let response;
  try {
    response = await fetch(`/studio/api/${name}`, options);
  } catch {
    throw new Error("The server does not answer; start it again with nextword serve.");
  }
  if (response.ok) return response;
  const reply = await response.json().catch(() => null);
  throw Object.assign(new Error(reply?.error?.message ?? `The server answered ${response.status}; look at its log.`), { refused: response.status === 400 });
}

// Debounce: the returned function calls `act` once, `wait` milliseconds after the last call of its own.
export function calm(wait, act) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, wait);
  };
}

// At most one `act` at a time: a call during one has `act` called once more when that one has ended.
export function soon(act) {
  let busy = false;
  let again = false;
  return async function run() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      do {
        again = false;
        await act();
      } while (again);
    } finally {
      busy = false;
    }
  };
}
