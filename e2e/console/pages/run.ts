import { expect } from "@playwright/test";
import { Frame } from "./frame";

/** The page of a backup or a restore. */
export class RunPage extends Frame {
  phase = (name: string) =>
    this.page.getByRole("list", { name: "Phases" }).getByRole("listitem").filter({ hasText: name });
  state = () => this.page.locator("dl.facts .fact").filter({ hasText: "State" }).locator("dd");
  volumes = () => this.page.getByRole("table", { name: "Volumes" }).getByRole("row");
  button = (name: string) => this.page.getByRole("button", { name, exact: true });
  tab = (name: string) =>
    this.page.getByRole("navigation", { name: "Views of this page" }).getByRole("link", { name });

  /** Watches the page, without reloading, until the run is over. */
  async completes(milliseconds: number): Promise<void> {
    await expect(this.state()).toHaveText(/Complete|Failed/, { timeout: milliseconds });
    await expect(this.state()).toHaveText("Complete");
  }
}
