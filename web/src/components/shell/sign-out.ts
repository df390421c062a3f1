import { POST, given } from "@/api/client";
import { queries } from "@/api/queries";
import { complain } from "@/components/ui/toasts";

/** Ends the session of this browser and leaves the page, so that nothing of it stays in memory. */
export async function signOut(): Promise<void> {
  try {
    await given(POST("/api/signout"));
    queries.clear();
    location.assign("/signin");
  } catch (thrown) {
    complain(thrown);
  }
}
