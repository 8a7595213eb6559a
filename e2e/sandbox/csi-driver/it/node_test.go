package it

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func withMode(c *csi.VolumeCapability, mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	c.AccessMode.Mode = mode
	return c
}

func TestNodeCallsAreIdempotent(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]*csi.VolumeCapability{"block": block(), "ext4": capability("ext4"), "xfs": capability("xfs")} {
		id := r.volume(name, 400*mib, nil)
		r.use(id, c)
		r.use(id, c)
		if loops := r.loops("data/pool"); len(loops) != 1 {
			t.Errorf("%s: devices after two rounds: %v", name, loops)
		}
		_, err := r.NodeUnstageVolume(r.ctx(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: r.path("staging", id)})
		r.wantCode(err, codes.FailedPrecondition, "still published")
		_, err = r.DeleteVolume(r.ctx(), &csi.DeleteVolumeRequest{VolumeId: id})
		r.wantCode(err, codes.FailedPrecondition, "in use")
		r.release(id)
		r.release(id)
		if _, err := os.Lstat(r.path("pods", id)); !os.IsNotExist(err) {
			t.Errorf("%s: the target path is still there: %v", name, err)
		}
		if loops := r.loops("data/pool"); len(loops) != 0 {
			t.Errorf("%s: devices after release: %v", name, loops)
		}
		for range 2 {
			if _, err := r.DeleteVolume(r.ctx(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestDevicesUseDirectIO(t *testing.T) {
	r := newRig(t)
	r.use(r.volume("v", 64*mib, nil), block())
	r.use(r.volume("w", 64*mib, nil), capability(""))
	r.use(r.volume("shared blocks", 0, fromVolume(r.volume("x", 64*mib, nil))), block())
	loops := r.loops("data")
	if len(loops) != 4 {
		t.Fatalf("pool and three volumes: %v", loops)
	}
	for _, loop := range loops {
		name := strings.Fields(loop)[0]
		if size, err := os.ReadFile("/sys/block/" + name + "/queue/logical_block_size"); strings.Contains(loop, "/pool/") &&
			(err != nil || string(size) != "4096\n") {
			t.Errorf("%s: sectors of %q %v", loop, size, err)
		}
		if dio, err := os.ReadFile("/sys/block/" + name + "/loop/dio"); err != nil || string(dio) != "1\n" {
			t.Errorf("%s: dio=%q %v", loop, dio, err)
		}
	}
}

func TestPublishedFilesystemIsSharedByPods(t *testing.T) {
	r := newRig(t)
	id := r.volume("v", 64*mib, nil)
	c := capability("ext4", "noatime")
	first := r.use(id, c)
	second := r.path("pods", "second")
	if err := r.tryPublish(id, second, c, true); err != nil {
		t.Fatal(err)
	}
	r.writeFile(filepath.Join(first, "file"), []byte("hello"))
	r.wantBytes(filepath.Join(second, "file"), 0, []byte("hello"))
	if err := os.WriteFile(filepath.Join(second, "file"), nil, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only target: %v", err)
	}
	for _, target := range []string{first, second} {
		if st := r.statfs(target); st.Flags&unix.MS_NOATIME == 0 {
			t.Errorf("%s: mount flag noatime is lost: %x", target, st.Flags)
		}
	}
	r.wantCode(r.tryPublish(id, second, c, false), codes.AlreadyExists)
	if _, err := r.NodeUnpublishVolume(r.ctx(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: second}); err != nil {
		t.Fatal(err)
	}
	r.wantBytes(filepath.Join(first, "file"), 0, []byte("hello"))
}

func TestAccessModes(t *testing.T) {
	r := newRig(t)
	id := r.volume("v", 64*mib, nil)
	reader := withMode(block(), csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)
	device := r.use(id, reader)
	if readOnly := r.run("blockdev", "--getro", device); readOnly != "1" {
		t.Error("the device of a reader can be written")
	}
	r.release(id)
	once := withMode(capability(""), csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER)
	r.use(id, once)
	r.wantCode(r.tryPublish(id, r.path("pods", "other"), once, false), codes.FailedPrecondition, "once only")
	r.release(id)
	target := r.use(id, withMode(capability(""), csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY))
	if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write by a reader: %v", err)
	}
	request := createRequest("shared", mib, nil)
	request.VolumeCapabilities = []*csi.VolumeCapability{withMode(capability(""), csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)}
	_, err := r.CreateVolume(r.ctx(), request)
	r.wantCode(err, codes.InvalidArgument)
	request.VolumeCapabilities = []*csi.VolumeCapability{withMode(block(), csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)}
	if _, err := r.CreateVolume(r.ctx(), request); err != nil {
		t.Error(err)
	}
	request.Name, request.Parameters = "odd", map[string]string{"colour": "red"}
	_, err = r.CreateVolume(r.ctx(), request)
	r.wantCode(err, codes.InvalidArgument, "colour")
	_, err = r.CreateVolume(r.ctx(), &csi.CreateVolumeRequest{Name: "btrfs", VolumeCapabilities: []*csi.VolumeCapability{capability("btrfs")}})
	r.wantCode(err, codes.InvalidArgument, "btrfs")
}

func TestExpansionWhileInUse(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]*csi.VolumeCapability{"block": block(), "ext4": capability("ext4"), "xfs": capability("xfs")} {
		t.Run(name, func(t *testing.T) {
			id := r.volume(name, 400*mib, nil)
			target := r.use(id, c)
			grown, err := r.ControllerExpandVolume(r.ctx(), &csi.ControllerExpandVolumeRequest{
				VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 900 * mib},
			})
			if err != nil || grown.GetCapacityBytes() != 900*mib || !grown.GetNodeExpansionRequired() {
				t.Fatalf("%v, %v", grown, err)
			}
			for range 2 {
				_, err := r.NodeExpandVolume(r.ctx(), &csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: target, VolumeCapability: c})
				if name == "ext4" && status.Code(err) == codes.FailedPrecondition {
					t.Log("no CAP_SYS_RESOURCE here: ext4 grows when staged anew")
					r.release(id)
					r.use(id, c)
				} else if err != nil {
					t.Fatal(err)
				}
			}
			stats, err := r.NodeGetVolumeStats(r.ctx(), &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: target})
			if err != nil || stats.GetUsage()[0].GetTotal() < 750*mib {
				t.Fatalf("%v, %v", stats, err)
			}
			if name == "block" {
				r.wantBytes(target, 899*mib, make([]byte, mib))
			}
			smaller, err := r.ControllerExpandVolume(r.ctx(), &csi.ControllerExpandVolumeRequest{
				VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 10 * mib},
			})
			if err != nil || smaller.GetCapacityBytes() != 900*mib {
				t.Errorf("a volume must not shrink: %v, %v", smaller, err)
			}
		})
	}
}

func TestManyVolumesAtOnce(t *testing.T) {
	r := newRig(t)
	var group sync.WaitGroup
	failures := make(chan error, 64)
	for i := range 16 {
		group.Go(func() { failures <- r.lifeOfAVolume(i) })
	}
	ids := make(chan string, 8)
	for range 8 { // the same name from many sides is one volume
		group.Go(func() {
			response, err := r.CreateVolume(r.ctx(), createRequest("same", 32*mib, nil))
			ids <- response.GetVolume().GetVolumeId()
			failures <- err
		})
	}
	group.Wait()
	close(failures)
	close(ids)
	for err := range failures {
		if err != nil {
			t.Error(err)
		}
	}
	first := <-ids
	for id := range ids {
		if id != first {
			t.Errorf("two volumes of one name: %s and %s", first, id)
		}
	}
	if list, err := r.ListVolumes(r.ctx(), &csi.ListVolumesRequest{}); err != nil || len(list.GetEntries()) != 1 {
		t.Errorf("volumes left: %v, %v", list.GetEntries(), err)
	}
}

// lifeOfAVolume creates, uses, snapshots, restores and deletes; it must not stop the test from another goroutine.
func (r *rig) lifeOfAVolume(i int) error {
	c := block()
	if i%2 == 0 {
		c = capability("ext4")
	}
	created, err := r.CreateVolume(r.ctx(), createRequest(fmt.Sprint("many ", i), 32*mib, nil))
	if err != nil {
		return err
	}
	id := created.GetVolume().GetVolumeId()
	if err := r.tryStage(id, c); err != nil {
		return err
	}
	if err := r.tryPublish(id, r.path("pods", id), c, false); err != nil {
		return err
	}
	snapshot, err := r.CreateSnapshot(r.ctx(), &csi.CreateSnapshotRequest{Name: fmt.Sprint("many ", i), SourceVolumeId: id})
	if err != nil {
		return err
	}
	restored, err := r.CreateVolume(r.ctx(), createRequest(fmt.Sprint("restored ", i), 0, fromSnapshot(snapshot.GetSnapshot().GetSnapshotId())))
	if err != nil {
		return err
	}
	if err := r.tryRelease(id); err != nil {
		return err
	}
	_, err = r.DeleteSnapshot(r.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: snapshot.GetSnapshot().GetSnapshotId()})
	for _, volume := range []string{id, restored.GetVolume().GetVolumeId()} {
		_, deleted := r.DeleteVolume(r.ctx(), &csi.DeleteVolumeRequest{VolumeId: volume})
		err = errors.Join(err, deleted)
	}
	return err
}

func TestListingsInPages(t *testing.T) {
	r := newRig(t)
	var want []string
	for i := range 5 {
		want = append(want, r.volume(fmt.Sprint("v", i), mib, nil))
	}
	var got []string
	token := ""
	for page := 0; page == 0 || token != ""; page++ {
		list, err := r.ListVolumes(r.ctx(), &csi.ListVolumesRequest{MaxEntries: 2, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range list.GetEntries() {
			got = append(got, entry.GetVolume().GetVolumeId())
		}
		token = list.GetNextToken()
		if page == 0 { // what goes meanwhile must not hide what follows
			if _, err := r.DeleteVolume(r.ctx(), &csi.DeleteVolumeRequest{VolumeId: want[1]}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("pages: %v, want %v", got, want)
	}
	one := r.snapshot("one", want[0])
	r.snapshot("two", want[2])
	list, err := r.ListSnapshots(r.ctx(), &csi.ListSnapshotsRequest{SourceVolumeId: want[0]})
	if err != nil || len(list.GetEntries()) != 1 || list.GetEntries()[0].GetSnapshot().GetSnapshotId() != one {
		t.Errorf("snapshots of a volume: %v, %v", list, err)
	}
}

func TestTopology(t *testing.T) {
	r := newRig(t, "--topology")
	key := "topology.csi.sandbox.holdfast.dev/node"
	request := createRequest("here", mib, nil)
	request.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: map[string]string{key: "n1"}}}}
	response, err := r.CreateVolume(r.ctx(), request)
	if err != nil || response.GetVolume().GetAccessibleTopology()[0].GetSegments()[key] != "n1" {
		t.Errorf("%v, %v", response, err)
	}
	request = createRequest("elsewhere", mib, nil)
	request.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: map[string]string{key: "n2"}}}}
	_, err = r.CreateVolume(r.ctx(), request)
	r.wantCode(err, codes.ResourceExhausted)
}

func TestKubeletRegistration(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "plugins_registry", "reg.sock")
	r := newRig(t, "--kubelet-registration-path="+socket)
	r.restart() // over the socket of a killed driver
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	info, err := registration.NewRegistrationClient(conn).GetInfo(r.ctx(), &registration.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.GetType() != "CSIPlugin" || info.GetName() != "csi.sandbox.holdfast.dev" || info.GetEndpoint() != r.path("csi.sock") {
		t.Errorf("registration: %v", info)
	}
}
