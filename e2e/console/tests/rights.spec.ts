import { expect, test } from "@playwright/test";
import { Frame } from "../pages/frame";
import { SignInPage } from "../pages/sign-in";
import { Cluster } from "../support/cluster";
import { stage } from "../support/environment";

test.use({ storageState: { cookies: [], origins: [] } });

test("a person whose rights end at a namespace works there and sees no other", async ({ page }) => {
  const { namespace, backup, unprotected } = stage();
  const cluster = new Cluster();
  const core = `/api/v1/namespaces/${namespace}`;
  const rbac = `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}`;
  await cluster.create(`${core}/serviceaccounts`, { metadata: { name: "tenant" } });
  await cluster.create(`${rbac}/roles`, {
    metadata: { name: "tenant" },
    rules: [
      { apiGroups: ["holdfast.dev"], resources: ["*"], verbs: ["get", "list", "watch", "create", "delete"] },
      { apiGroups: [""], resources: ["namespaces"], verbs: ["get"] },
    ],
  });
  await cluster.create(`${rbac}/rolebindings`, {
    metadata: { name: "tenant" },
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "tenant" },
    subjects: [{ kind: "ServiceAccount", name: "tenant", namespace }],
  });
  const issued = await cluster.create(`${core}/serviceaccounts/tenant/token`, {
    apiVersion: "authentication.k8s.io/v1",
    kind: "TokenRequest",
    spec: {},
  });

  await page.goto("/namespaces");
  await new SignInPage(page).withToken(issued.status.token);
  await expect(page.getByText("Not allowed to list these")).toBeVisible();
  await expect(page.getByText(/cannot list resource/)).toBeVisible();
  await page.getByLabel(/rights in one namespace/).fill(namespace);
  await page.getByRole("button", { name: "Open" }).click();
  const frame = new Frame(page);
  await expect(frame.row(namespace)).toContainText("Protected");
  await frame.link("Backups").click();
  await expect(frame.row(backup)).toBeVisible();

  // Asking for another namespace shows the refusal, not its content.
  await page.getByRole("button", { name: "Look at every namespace" }).click();
  await page.getByLabel(/rights in one namespace/).fill(unprotected);
  await page.getByRole("button", { name: "Open" }).click();
  await expect(page.getByText(/cannot list resource/)).toBeVisible();
  await expect(page.locator("[data-row]")).toHaveCount(0);
});
