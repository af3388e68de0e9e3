// Questions to the server. Whatever goes wrong becomes an Error whose message is a sentence to be shown; `refused` where
// it was the question's fault.

export async function ask(name, question) {
  const response = await sent(name, question);
  return response.json();
}

export async function askPage(name, question) {
  const response = await sent(name, question);
  return response.blob();
}

async function sent(name, question) {
  const asked = question === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question) };
  let response;
  try {
    response = await fetch(`/studio/api/${name}`, asked);
  } catch {
    throw new Error("The server does not answer; start it again with nextword serve.");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw Object.assign(new Error(told?.error?.message ?? `The server answered ${response.status}; look at its log.`), { refused: response.status === 400 });
}

// The function, called once after `wait` ms of peace; `soon` calls it at most once at a time and always with the last.
export function calm(wait, act) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, wait);
  };
}

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
