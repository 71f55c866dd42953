// The last page of a worker of Mechanical Turk: a form that hands the task in.

export default function ({ data, parentElement }) {
  if (!data || parentElement.querySelector("form")) return;
  const form = document.createElement("form");
  form.method = "post";
  form.action = data.url;
  for (const [name, value] of Object.entries(data.fields)) {
    const field = document.createElement("input");
    field.type = "hidden";
    field.name = name;
    field.value = value;
    form.append(field);
  }
  const button = document.createElement("button");
  button.textContent = data.label;
  form.append(button);
  parentElement.append(form);
}
