package driver

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestChooseSize(t *testing.T) {
	const mi, gi = 1 << 20, 1 << 30
	for _, c := range []struct {
		required, limit, minimum int64
		hasSource                bool
		want                     int64
		code                     codes.Code
	}{
		{want: gi},
		{required: 1, want: mi},
		{required: 5*mi + 1, want: 6 * mi},
		{required: 5*mi + 1, limit: 5*mi + 2, code: codes.OutOfRange},
		{required: 5 * mi, limit: 4 * mi, code: codes.OutOfRange},
		{limit: 10*mi + 5, want: 10 * mi},
		{limit: mi - 1, code: codes.OutOfRange},
		{required: 10 * mi, minimum: 300 * mi, want: 300 * mi},
		{required: 10 * mi, limit: 200 * mi, minimum: 300 * mi, code: codes.OutOfRange},
		{minimum: 7 * mi, hasSource: true, want: 7 * mi},
		{required: 6 * mi, minimum: 7 * mi, hasSource: true, code: codes.OutOfRange},
		{required: 9 * mi, minimum: 7 * mi, hasSource: true, want: 9 * mi},
		{required: -1, code: codes.InvalidArgument},
		{required: maxSize + 1, code: codes.OutOfRange},
	} {
		got, err := chooseSize(&csi.CapacityRange{RequiredBytes: c.required, LimitBytes: c.limit}, c.minimum, c.hasSource)
		if got != c.want || status.Code(err) != c.code {
			t.Errorf("%+v: %d, %v", c, got, err)
		}
	}
}

func TestStringsIn(t *testing.T) {
	got := stringsIn((&csi.CreateVolumeRequest{
		Name: "pvc-1", Parameters: map[string]string{"k": "v"}, Secrets: map[string]string{"password": "secret"},
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: "snap-1"},
		}},
		VolumeCapabilities: []*csi.VolumeCapability{{AccessType: &csi.VolumeCapability_Mount{
			Mount: &csi.VolumeCapability_MountVolume{FsType: "xfs", MountFlags: []string{"noatime"}},
		}}},
	}).ProtoReflect())
	slices.Sort(got)
	if !slices.Equal(got, []string{"k=v", "noatime", "pvc-1", "snap-1", "xfs"}) {
		t.Errorf("%q", got)
	}
}

func TestKeyLock(t *testing.T) {
	var locks keyLock
	unlock, err := locks.lock(context.Background(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := locks.lock(context.Background(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := locks.lock(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Fatalf("a held lock was given: %v", err)
	}
	unlock()
	if unlock, err = locks.lock(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	unlock()
	if len(locks.held) != 0 {
		t.Errorf("locks are never forgotten: %v", locks.held)
	}
}
