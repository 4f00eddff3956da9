// The organiser's link has the token behind its #, which a browser sends to nobody: it is put into the form here.
"use strict";

const signIn = document.getElementById("sign-in");
if (signIn && location.hash.length > 1) {
  signIn.elements.token.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  signIn.submit();
}

const every = document.getElementById("every");
if (every && location.pathname === "/organiser") {
  const box = every.querySelector("input");
  box.checked = sessionStorage.getItem("every") === "yes";
  every.hidden = false;
  box.addEventListener("change", () => sessionStorage.setItem("every", box.checked ? "yes" : ""));
  setInterval(() => { if (box.checked) location.reload(); }, 30000);
}
