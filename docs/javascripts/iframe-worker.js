// Browsers start no worker on a page that was opened from a folder, and the search is one. There a
// hidden frame takes its place: it runs the same script, and messages go to and fro.
// The theme looks for the name IFrameWorker, to find its files from within the frame.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = (this.inside = this.frame.contentWindow);
      // As tasks of their own, as a worker's messages are: who sends one has not gone on yet.
      inside.postMessage = (data) =>
        setTimeout(() => {
          const told = new MessageEvent("message", { data });
          this.dispatchEvent(told);
          this.onmessage?.(told);
        });
      const load = (source) =>
        new Promise((loaded, failed) => {
          const script = inside.document.createElement("script");
          Object.assign(script, { src: source, onload: loaded, onerror: failed });
          inside.document.body.append(script);
        });
      inside.importScripts = async (...sources) => {
        for (const source of sources) await load(source);
      };
      this.ready = load(new URL(url, document.baseURI).href);
      this.ready.catch(() => this.dispatchEvent(new Event("error")));
    }
    postMessage(data) {
      const told = () => this.inside.dispatchEvent(new MessageEvent("message", { data }));
      this.ready.then(() => setTimeout(told), () => {});
    }
    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
