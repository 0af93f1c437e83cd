// What the pages have in common: where models are, what is shown of the work, and one thing at a time.

export const MODELS = new URL(new URLSearchParams(location.search).get("models") ?? "models/", document.baseURI);

let work = Promise.resolve(); // in the order in which things were asked for

export const element = (id) => document.getElementById(id);

/** Lets the browser paint, and people press buttons, for so long at least. */
export const pause = (milliseconds = 0) => new Promise((resolve) => setTimeout(resolve, milliseconds));

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

/** Shows how many milliseconds things took. */
export function measure(milliseconds) {
  element("measures").replaceChildren(...Object.entries(milliseconds).map(([name, value]) => {
    const [row, term, number] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    term.textContent = name;
    number.textContent = `${value.toFixed(2)} ms`;
    row.append(term, number);
    return row;
  }));
}
