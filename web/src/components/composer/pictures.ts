/** Pictures that wait to be sent with a prompt. */
import { useEffect, useRef, useState } from "react";
import { requestKey } from "@/api/request-key";
import { say } from "@/components/ui/toasts";

export const MAX_PICTURES = 6;
const MAX_BYTES = 10 * 1024 * 1024;
export const PICTURE_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif"];

export type Picture = { key: string; file: File; address: string };

export function usePictures() {
  const [pictures, setPictures] = useState<Picture[]>([]);
  const live = useRef<Picture[]>([]);
  useEffect(() => {
    live.current = pictures;
  }, [pictures]);
  useEffect(
    () => () => {
      for (const picture of live.current) URL.revokeObjectURL(picture.address);
    },
    [],
  );
  return {
    pictures,
    add: (files: Iterable<File>) => {
      const added: Picture[] = [];
      for (const file of files) {
        if (!PICTURE_TYPES.includes(file.type)) say(`“${file.name}” is not a picture that can be attached (PNG, JPEG, WebP or GIF).`);
        else if (file.size > MAX_BYTES) say(`“${file.name}” is larger than 10 MiB.`);
        else if (pictures.length + added.length >= MAX_PICTURES) {
          say(`At most ${MAX_PICTURES} pictures go with a prompt.`);
          break;
        } else added.push({ key: requestKey(), file, address: URL.createObjectURL(file) });
      }
      if (added.length > 0) setPictures([...pictures, ...added]);
    },
    remove: (key: string) => {
      const gone = pictures.find((one) => one.key === key);
      if (gone) URL.revokeObjectURL(gone.address);
      setPictures(pictures.filter((one) => one.key !== key));
    },
    clear: () => {
      for (const picture of pictures) URL.revokeObjectURL(picture.address);
      setPictures([]);
    },
  };
}
