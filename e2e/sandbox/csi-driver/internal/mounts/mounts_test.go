package mounts

import "testing"

func TestParse(t *testing.T) {
	list, err := parse([]byte(`22 27 0:21 / /proc rw,relatime - proc proc rw
41 27 7:3 / /var/lib/a\040b ro,noatime shared:1 master:2 - ext4 /dev/loop3 rw
42 27 0:6 /loop3 /pods/dev\134x rw,relatime shared:3 - devtmpfs devtmpfs rw
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 {
		t.Fatalf("%d mounts", len(list))
	}
	if m := list[1]; m.MajorMinor != "7:3" || m.Path != "/var/lib/a b" || m.FSType != "ext4" || !m.ReadOnly() {
		t.Errorf("%+v", m)
	}
	if m := list[2]; m.Root != "/loop3" || m.Path != `/pods/dev\x` || m.FSType != "devtmpfs" || m.ReadOnly() {
		t.Errorf("%+v", m)
	}
	if _, err := parse([]byte("22 27 0:21 / /proc rw\n")); err == nil {
		t.Error("a line without separator is understood")
	}
}
