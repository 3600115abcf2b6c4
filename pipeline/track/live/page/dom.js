// Elements of the page. Text is always set as text, so that names and captions of runs cannot become markup.

/** Return an element: el("a", {href: "x", class: "y"}, ["text", child]). */
export function el(tag, attributes = {}, children = []) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text if it is another. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Make `parent` hold these children in this order, and touch those that stay where they are as little as may be. */
export function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
}

/** A square in a run's colour. */
export function swatch(colour) {
  const element = el("span", { class: "swatch" });
  element.style.background = colour;
  return element;
}
