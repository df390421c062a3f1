export const PANELS = ["changes", "pull-requests", "details"] as const;
export type PanelName = (typeof PANELS)[number];
