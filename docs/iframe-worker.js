/* The search runs in a worker, and browsers start none for pages that are opened from a folder. There an iframe takes its
   place: what the worker's script posts goes to the page, and what the page posts goes to the iframe's window. */
if (location.protocol === "file:") {
  const prelude = () => {
    window.postMessage = (data) => parent.dispatchEvent(new MessageEvent("message", { data, source: window }));
    window.importScripts = (...urls) =>
      urls.reduce(
        (loaded, url) =>
          loaded.then(
            () =>
              new Promise((resolve, reject) => {
                const script = document.createElement("script");
                Object.assign(script, { src: url, onload: resolve, onerror: reject });
                document.body.appendChild(script);
              }),
          ),
        Promise.resolve(),
      );
    document.currentScript.remove(); // the worker looks for its own script, the first one with a source
  };

  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.window = frame.contentWindow;
      window.addEventListener("message", (event) => {
        if (event.source === this.window) this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      this.started = new Promise((resolve) => (frame.onload = resolve));
      this.window.document.open();
      this.window.document.write(
        `<body><script>(${prelude})()<` + `/script><script src="${new URL(url, location)}"><` + `/script></body>`,
      );
      this.window.document.close();
    }

    postMessage(data) {
      this.started.then(() => this.window.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
