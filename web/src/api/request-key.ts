/** A fresh key under which a request may be sent again. Also where the page is not served securely, and `crypto.randomUUID` is missing. */
export function requestKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
