// Pictures as the API takes them: data URLs, no larger than any model looks at.

const MAX_SIDE = 2048; // a phone's photograph is larger

export async function pictureUrl(file) {
  const url = await dataUrl(file);
  const picture = new Image();
  await new Promise((done, failed) => {
    picture.onload = done;
    picture.onerror = () => failed(new Error(`${file.name || "The picture"} cannot be read by this browser`));
    picture.src = url;
  });
  const scale = MAX_SIDE / Math.max(picture.naturalWidth, picture.naturalHeight);
  if (scale >= 1 && /^image\/(?:png|jpeg|webp|gif)$/.test(file.type)) return url;
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.naturalWidth * Math.min(scale, 1)));
  canvas.height = Math.max(1, Math.round(picture.naturalHeight * Math.min(scale, 1)));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL(file.type === "image/jpeg" ? "image/jpeg" : "image/png", 0.92);
}

const dataUrl = (file) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => failed(reader.error);
  reader.readAsDataURL(file);
});
