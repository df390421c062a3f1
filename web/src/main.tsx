import { QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { SIGNED_OUT } from "@/api/client";
import { queries } from "@/api/queries";
import { applyTheme } from "@/appearance/theme";
import { Toasts } from "@/components/ui/toasts";
import { router } from "@/routes/tree";
import "./styles.css";

applyTheme();

// Somebody who is signed out in the middle of something comes back to where they were.
addEventListener(SIGNED_OUT, () => {
  if (location.pathname === "/signin") return;
  const to = location.pathname + location.search + location.hash;
  queries.clear();
  void router.navigate({ to: "/signin", search: { to } });
});

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <RouterProvider router={router} />
      <Toasts />
    </QueryClientProvider>
  </StrictMode>,
);
