package it

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func TestVolumesInUseSurviveKill(t *testing.T) {
	r := newRig(t)
	file, device := r.volume("file", 64*mib, nil), r.volume("device", 64*mib, nil)
	fileTarget, deviceTarget := r.use(file, capability("ext4")), r.use(device, block())
	data := random(20, mib)
	snapshot := r.snapshot("snap", device)
	open, err := os.Create(filepath.Join(fileTarget, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()

	r.kill()
	if _, err := open.Write(data); err != nil { // the pod writes on while the driver is gone
		t.Fatal(err)
	}
	r.writeAt(deviceTarget, 0, data)
	r.start()

	if again := r.volume("file", 64*mib, nil); again != file {
		t.Errorf("the volume has got another id: %s, was %s", again, file)
	}
	if again := r.snapshot("snap", device); again != snapshot {
		t.Errorf("the snapshot has got another id: %s, was %s", again, snapshot)
	}
	r.use(file, capability("ext4"))
	r.use(device, block())
	r.wantBytes(filepath.Join(fileTarget, "open"), 0, data)
	r.wantBytes(r.use(r.volume("restored", 0, fromSnapshot(snapshot)), block()), 0, make([]byte, mib))
	r.wantBytes(deviceTarget, 0, data)
	open.Close()
	r.release(file)
	r.release(device)
}

// Kills the driver in the middle of whatever it does. What it has acknowledged must be there afterwards, what is listed
// must work, and no leftover may stay.
func TestKillAtAnyMoment(t *testing.T) {
	r := newRig(t)
	source := r.volume("source", 64*mib, nil)
	data := random(21, mib)
	r.writeAt(r.use(source, block()), 0, data)
	var mutex sync.Mutex
	acknowledged := map[string]string{} // name → id
	deleted := map[string]bool{}
	for round := range 8 {
		var group sync.WaitGroup
		for worker := range 4 {
			group.Go(func() {
				for i := 0; ; i++ {
					name := fmt.Sprintf("%d-%d-%d", round, worker, i)
					if err := r.churn(name, source, worker, &mutex, acknowledged, deleted); err != nil {
						return // killed
					}
				}
			})
		}
		time.Sleep(time.Duration(40+37*round) * time.Millisecond)
		r.kill()
		group.Wait()
		r.start()
	}
	list, err := r.ListVolumes(r.ctx(), &csi.ListVolumesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, entry := range list.GetEntries() {
		listed[entry.GetVolume().GetVolumeId()] = true
	}
	if len(acknowledged) < 10 {
		t.Errorf("only %d volumes were made: the test shows nothing", len(acknowledged))
	}
	for name, id := range acknowledged {
		if !listed[id] && !deleted[id] {
			t.Errorf("volume %s (%s) was acknowledged and is gone", name, id)
		}
		if listed[id] {
			if again := r.volume(name, 32*mib, sourceOf(name, source)); again != id {
				t.Errorf("volume %s has got another id: %s, was %s", name, again, id)
			}
		}
	}
	images, _ := filepath.Glob(r.path("data/pool/volumes/*.img"))
	left, _ := filepath.Glob(r.path("data/pool/tmp/*"))
	if len(images) != len(listed) || len(left) != 0 {
		t.Errorf("%d images of %d volumes, in tmp: %v", len(images), len(listed), left)
	}
	for id := range listed {
		if err := r.tryRelease(id); err != nil {
			t.Fatal(err)
		}
	}
	if loops := r.loops("data/pool"); len(loops) != 0 {
		t.Errorf("devices left: %v", loops)
	}
}

func sourceOf(name, source string) *csi.VolumeContentSource {
	if strings.HasSuffix(name, "0") {
		return fromVolume(source)
	}
	return nil
}

// churn is one piece of work of TestKillAtAnyMoment; every third volume is formatted, every second deleted.
func (r *rig) churn(name, source string, worker int, mutex *sync.Mutex, acknowledged map[string]string, deleted map[string]bool) error {
	request := createRequest(name, 32*mib, sourceOf(name, source))
	if request.VolumeContentSource != nil {
		request.CapacityRange.RequiredBytes = 64 * mib
	}
	created, err := r.CreateVolume(r.ctx(), request)
	if err != nil {
		return err
	}
	id := created.GetVolume().GetVolumeId()
	mutex.Lock()
	acknowledged[name] = id
	mutex.Unlock()
	switch {
	case worker == 0 && request.VolumeContentSource == nil:
		if err := r.tryStage(id, capability("ext4")); err != nil {
			return err
		}
		return r.tryRelease(id)
	case worker%2 == 1:
		mutex.Lock()
		deleted[id] = true // from now on both are right
		mutex.Unlock()
		_, err = r.DeleteVolume(r.ctx(), &csi.DeleteVolumeRequest{VolumeId: id})
	default:
		_, err = r.CreateSnapshot(r.ctx(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})
	}
	return err
}

func TestLeftoversAreSweptAtStart(t *testing.T) {
	r := newRig(t)
	kept := r.volume("kept", mib, nil)
	r.kill()
	for _, leftover := range []string{"tmp/vol-1.img", "tmp/vol-1.json", "volumes/vol-2.img", "snapshots/snap-3.img"} {
		if err := os.WriteFile(r.path("data/pool", leftover), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	for _, dir := range []string{"tmp", "volumes", "snapshots"} {
		entries, err := os.ReadDir(r.path("data/pool", dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), kept+".") {
				t.Errorf("left: %s/%s", dir, entry.Name())
			}
		}
	}
}

// A device whose mount is undone behind the driver's back goes by itself.
func TestDeviceGoesWithItsMount(t *testing.T) {
	r := newRig(t)
	id := r.volume("v", 64*mib, nil)
	r.use(id, capability("ext4"))
	r.run("umount", r.path("pods", id))
	r.run("umount", r.path("staging", id))
	r.eventually("the device is gone", func() bool { return len(r.loops("data/pool")) == 0 })
	r.release(id)
	r.use(id, capability("ext4"))
}

func TestCleanup(t *testing.T) {
	r := newRig(t)
	file, device := r.volume("file", 64*mib, nil), r.volume("device", 64*mib, nil)
	fileTarget, deviceTarget := r.use(file, capability("ext4")), r.use(device, block())
	data := random(22, mib)
	r.writeFile(filepath.Join(fileTarget, "file"), data)
	r.writeAt(deviceTarget, 0, data)
	// As the kubelet does for Block volumes: bind the node once more, and take a lock by a loop device on top.
	again := r.path("again")
	r.writeFile(again, nil)
	r.run("mount", "--bind", deviceTarget, again)
	r.run("losetup", "-f", again)
	nested := r.path("nested")
	if err := os.Mkdir(nested, 0o700); err != nil {
		t.Fatal(err)
	}
	r.run("mount", "--bind", fileTarget, nested)

	out, err := r.cleanup()
	if err == nil || !strings.Contains(out, "in use by process") {
		t.Fatalf("cleanup beside a living driver: %v\n%s", err, out)
	}
	r.kill()
	for range 2 {
		if out, err := r.cleanup(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if left := r.leftovers(); left != "" {
			t.Fatalf("left:\n%s", left)
		}
	}
	r.start()
	r.wantBytes(filepath.Join(r.use(file, capability("ext4")), "file"), 0, data)
	r.wantBytes(r.use(device, block()), 0, data)
}

func TestCleanupOfABusyMount(t *testing.T) {
	r := newRig(t)
	id := r.volume("v", 64*mib, nil)
	open, err := os.Create(filepath.Join(r.use(id, capability("ext4")), "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	r.kill()
	out, err := r.cleanup()
	if err == nil || !strings.Contains(out, "still held open") {
		t.Errorf("a device that could not be freed must be reported: %v\n%s", err, out)
	}
	open.Close()
	r.eventually("nothing is left once the file is closed", func() bool {
		_, err := r.cleanup()
		return err == nil && r.leftovers() == ""
	})
}

func TestFaults(t *testing.T) {
	r := newRig(t)
	source := r.volume("source", mib, nil)

	r.faults(`{"createVolume": {"error": "ResourceExhausted", "message": "pool is full", "match": ["pvc/namespace=shop"]}}`)
	request := createRequest("full", mib, nil)
	request.Parameters = map[string]string{"csi.storage.k8s.io/pvc/namespace": "shop"}
	_, err := r.CreateVolume(r.ctx(), request)
	r.wantCode(err, codes.ResourceExhausted, "pool is full")
	request.Parameters = map[string]string{"csi.storage.k8s.io/pvc/namespace": "other"}
	if _, err := r.CreateVolume(r.ctx(), request); err != nil {
		t.Error(err)
	}

	r.faults(`{"createSnapshot": {"delayMs": 700}}`)
	start := time.Now()
	r.snapshot("slow", source)
	if took := time.Since(start); took < 700*time.Millisecond {
		t.Errorf("a slow call took %s", took)
	}

	r.faults(`{"nodeStageVolume": {"error": "Internal"}}`)
	r.wantCode(r.tryStage(source, block()), codes.Internal, "injected")

	r.faults(`{"snapshotReady": {"never": true, "match": ["never"]}}`)
	taken, err := r.CreateSnapshot(r.ctx(), &csi.CreateSnapshotRequest{Name: "never", SourceVolumeId: source})
	if err != nil || taken.GetSnapshot().GetReadyToUse() {
		t.Errorf("%v, %v", taken, err)
	}
	_, err = r.CreateVolume(r.ctx(), createRequest("early", 0, fromSnapshot(taken.GetSnapshot().GetSnapshotId())))
	r.wantCode(err, codes.Unavailable)
	list, err := r.ListSnapshots(r.ctx(), &csi.ListSnapshotsRequest{SnapshotId: taken.GetSnapshot().GetSnapshotId()})
	if err != nil || list.GetEntries()[0].GetSnapshot().GetReadyToUse() {
		t.Errorf("%v, %v", list, err)
	}
	r.snapshot("other", source)

	r.faults(`{"snapshotReady": {"afterMs": 1500}}`)
	taken, err = r.CreateSnapshot(r.ctx(), &csi.CreateSnapshotRequest{Name: "later", SourceVolumeId: source})
	if err != nil || taken.GetSnapshot().GetReadyToUse() {
		t.Errorf("%v, %v", taken, err)
	}
	r.eventually("the snapshot becomes ready", func() bool {
		taken, err = r.CreateSnapshot(r.ctx(), &csi.CreateSnapshotRequest{Name: "later", SourceVolumeId: source})
		return err == nil && taken.GetSnapshot().GetReadyToUse()
	})

	for _, wrong := range []string{`{"createVolumes": {}}`, `{"createVolume": {"eror": "Internal"}}`, `{"createVolume": {"error": "Full"}}`, `{`} {
		r.faults(wrong)
		_, err := r.ListVolumes(r.ctx(), &csi.ListVolumesRequest{})
		r.wantCode(err, codes.Internal, "faults file")
	}
	if err := os.Remove(r.path("faults.json")); err != nil {
		t.Fatal(err)
	}
	r.volume("fine", mib, nil)
}
