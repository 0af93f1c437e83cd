// What both pages have: where models are, what is shown of the work, and one thing at a time.

export const MODELS = new URL(new URLSearchParams(location.search).get("models") ?? "models/", document.baseURI);

let work = Promise.resolve(); // in the order in which things were asked for

export const element = (id) => document.getElementById(id);

/** Shows what the page does. */
export function tell(state, message) {
  document.body.dataset.state = state;
  element("status").textContent = message;
}

/** Runs an action after those before it, and shows its error, if it has one. */
export function enqueue(action) {
  work = work.then(action).catch((error) => {
    tell("error", error.message);
    console.error(error);
  });
}
