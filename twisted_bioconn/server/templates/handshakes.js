"use strict";
// No character that HTML escapes may stand in this file: it is put into a script element.
(function () {
  const MOST = 20;
  const further = document.getElementById("further");
  const list = document.getElementById("list");
  const watching = document.getElementById("watching");
  let count = 0;
  function say(state) {
    const seen = count === 0 ? "None yet" : count === 1 ? "1 so far" : count + " so far";
    watching.textContent = seen + state;
  }
  further.hidden = false;
  const stream = new EventSource("/handshakes?after=" + encodeURIComponent(further.dataset.mark));
  stream.onopen = function () { say(". Each is shown when it is done."); };
  stream.onerror = function () {
    say(stream.readyState === EventSource.CLOSED
      ? ". The server tells of no more: reload this page."
      : ". The server is gone; asking again.");
  };
  stream.addEventListener("handshake", function (event) {
    // What is parsed like this runs nothing, and the policy of the page forbids it besides.
    const found = new DOMParser().parseFromString(event.data, "text/html").body.firstElementChild;
    if (found === null) return;
    list.prepend(found);
    if (list.children[MOST]) list.children[MOST].remove();
    count += 1;
    say(". Each is shown when it is done.");
  });
})();
