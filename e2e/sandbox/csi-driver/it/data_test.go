package it

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

func TestSnapshotHoldsTheDataOfItsTime(t *testing.T) {
	r := newRig(t)
	source := r.volume("source", 64*mib, nil)
	device := r.use(source, block())
	before, after := random(1, 8*mib), random(2, 8*mib)
	r.writeAt(device, 3*mib, before)
	id := r.snapshot("snap", source)
	r.writeAt(device, 3*mib, after)

	restored := r.use(r.volume("restored", 0, fromSnapshot(id)), block())
	r.wantBytes(restored, 3*mib, before)
	r.wantBytes(device, 3*mib, after)
	r.wantBytes(restored, 0, make([]byte, 3*mib))
	if size := r.run("blockdev", "--getsize64", restored); size != "67108864" {
		t.Errorf("size of the restored volume: %s", size)
	}
}

func TestSnapshotHoldsUnflushedWritesToADevice(t *testing.T) {
	r := newRig(t)
	source := r.volume("source", 64*mib, nil)
	device := r.use(source, block())
	data := random(3, 4*mib)
	file, err := os.OpenFile(device, os.O_WRONLY, 0) // page cache, never flushed by the writer
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	restored := r.use(r.volume("restored", 0, fromSnapshot(r.snapshot("snap", source))), block())
	r.wantBytes(restored, 0, data)
}

// A writer numbers the blocks in order, again and again. Whatever moment the snapshot shows, the numbers must be those
// of one moment: first blocks of round n, then blocks of round n-1.
func TestSnapshotUnderWritesIsOneMoment(t *testing.T) {
	const blocks, blockSize = 512, 4096
	r := newRig(t)
	source := r.volume("source", 64*mib, nil)
	device := r.use(source, block())
	file, err := os.OpenFile(device, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	memory, err := unix.Mmap(-1, 0, blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var rounds atomic.Uint64
	failed := make(chan error, 1)
	go func() {
		for round := uint64(1); !stop.Load(); round++ {
			binary.LittleEndian.PutUint64(memory, round)
			for i := range int64(blocks) {
				if _, err := file.WriteAt(memory, i*blockSize); err != nil {
					failed <- err
					return
				}
			}
			rounds.Store(round)
		}
		failed <- nil
	}()
	r.eventually("the writer writes", func() bool { return rounds.Load() > 2 })
	var ids []string
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		seen := rounds.Load()
		ids = append(ids, r.snapshot(name, source))
		r.eventually("the writer goes on", func() bool { return rounds.Load() > seen })
	}
	stop.Store(true)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		data := r.readAt(r.use(r.volume("of "+id, 0, fromSnapshot(id)), block()), 0, blocks*blockSize)
		first := binary.LittleEndian.Uint64(data)
		last := first
		for i := range blocks {
			number := binary.LittleEndian.Uint64(data[i*blockSize:])
			if number > last || number+1 < first {
				t.Fatalf("snapshot %s: block %d is of round %d, the one before of %d, the first of %d", id, i, number, last, first)
			}
			last = number
		}
		if first == 0 {
			t.Errorf("snapshot %s shows nothing", id)
		}
	}
}

func TestClonesAndSnapshotsAreIndependent(t *testing.T) {
	r := newRig(t)
	source := r.volume("source", 32*mib, nil)
	one, two, three := random(4, mib), random(5, mib), random(6, mib)
	device := r.use(source, block())
	r.writeAt(device, 0, one)
	copied := r.volume("copy", 0, fromVolume(source))
	snapshot := r.snapshot("snap", source)
	copyDevice := r.use(copied, block())
	r.wantBytes(copyDevice, 0, one)
	r.writeAt(copyDevice, 0, two)
	r.writeAt(device, 0, three)
	r.wantBytes(copyDevice, 0, two)
	r.wantBytes(device, 0, three)

	r.release(source)
	if _, err := r.DeleteVolume(r.ctx(), &csi.DeleteVolumeRequest{VolumeId: source}); err != nil {
		t.Fatal(err)
	}
	r.wantBytes(r.use(r.volume("restored", 0, fromSnapshot(snapshot)), block()), 0, one)
	if _, err := r.DeleteSnapshot(r.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: snapshot}); err != nil {
		t.Fatal(err)
	}
	r.wantBytes(copyDevice, 0, two)
	_, err := r.CreateVolume(r.ctx(), createRequest("late", 0, fromSnapshot(snapshot)))
	r.wantCode(err, codes.NotFound)
}

func TestNewVolumesAreZero(t *testing.T) {
	r := newRig(t, "--pool-size=1Gi")
	for i := range uint64(4) { // each round would be handed the blocks of the one before
		id := r.volume("volume", 256*mib, nil)
		device := r.use(id, block())
		if data := r.readAt(device, 0, 256*mib); !bytes.Equal(data, make([]byte, len(data))) {
			t.Fatal("a new volume holds old data")
		}
		r.writeAt(device, 0, random(i, 256*mib))
		r.release(id)
		if _, err := r.DeleteVolume(r.ctx(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSnapshotOfAMountedFilesystem(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			r := newRig(t)
			source := r.volume("source", 512*mib, nil)
			target := r.use(source, capability(fsType))
			before, after := random(7, 3*mib), random(8, 3*mib)
			r.writeFile(filepath.Join(target, "data"), before)
			id := r.snapshot("snap", source)
			r.writeFile(filepath.Join(target, "data"), after)
			r.writeFile(filepath.Join(target, "later"), after)

			restored := r.volume("restored", 0, fromSnapshot(id))
			if fsType == "xfs" {
				r.wantCode(r.tryStage(restored, capability(fsType)), codes.Internal, "nouuid")
			}
			var flags []string
			if fsType == "xfs" {
				flags = []string{"nouuid"}
			}
			copied := r.use(restored, capability(fsType, flags...))
			r.wantBytes(filepath.Join(copied, "data"), 0, before)
			if _, err := os.Stat(filepath.Join(copied, "later")); !os.IsNotExist(err) {
				t.Errorf("a file from after the snapshot is in it: %v", err)
			}
			r.wantBytes(filepath.Join(target, "data"), 0, after)
		})
	}
}

// The hand-over of a restore: written as Block, staged as Filesystem under the same volume id.
func TestFilesystemWrittenAsBlockIsMountedNotFormatted(t *testing.T) {
	r := newRig(t)
	original := r.volume("original", 400*mib, nil)
	data := random(9, 2*mib)
	target := r.use(original, capability("ext4"))
	r.writeFile(filepath.Join(target, "data"), data)
	r.release(original)

	image := r.use(r.volume("reader", 0, fromSnapshot(r.snapshot("snap", original))), block())
	restored := r.volume("restored", 500*mib, nil) // larger than the image
	device := r.use(restored, block())
	r.run("dd", "if="+image, "of="+device, "bs=1M", "conv=sparse,notrunc,fsync", "status=none")
	r.wantCode(r.tryStage(restored, capability("")), codes.FailedPrecondition, "block device")
	r.release(restored)

	r.wantCode(r.tryStage(restored, capability("xfs")), codes.FailedPrecondition, "holds ext4")
	target = r.use(restored, capability("ext4"))
	r.wantBytes(filepath.Join(target, "data"), 0, data)
	if st := r.statfs(target); int64(st.Blocks)*st.Bsize < 440*mib {
		t.Errorf("the file system did not grow to its device: %d bytes", int64(st.Blocks)*st.Bsize)
	}
	r.wantCode(r.tryStage(restored, block()), codes.FailedPrecondition, "mounted")
	r.release(restored)
	r.use(restored, block()) // and back: nothing is remembered
}

func TestOnlyBlankDevicesAreFormatted(t *testing.T) {
	r := newRig(t)
	garbage := random(10, 4096)
	foreign := r.volume("foreign", 64*mib, nil)
	r.writeAt(r.use(foreign, block()), 40*mib, garbage)
	r.release(foreign)
	r.wantCode(r.tryStage(foreign, capability("")), codes.FailedPrecondition, "not formatted")
	r.wantBytes(r.use(foreign, block()), 40*mib, garbage)

	zeroed := r.volume("zeroed", 64*mib, nil)
	device := r.use(zeroed, block())
	r.writeAt(device, 0, garbage)
	r.writeAt(device, 0, make([]byte, 64*mib))
	r.release(zeroed)
	r.writeFile(filepath.Join(r.use(zeroed, capability("")), "file"), garbage)
	if kind := r.run("stat", "-f", "-c", "%T", r.path("pods", zeroed)); kind != "ext2/ext3" {
		t.Errorf("default file system: %s", kind)
	}
}

// A thin volume far larger than the pool stays thin, also with a file system on it.
func TestHugeVolumeStaysThin(t *testing.T) {
	r := newRig(t)
	id := r.volume("huge", 100<<30, nil)
	target := r.use(id, capability("ext4"))
	if st := r.statfs(target); int64(st.Blocks)*st.Bsize < 90<<30 {
		t.Errorf("size of the file system: %d", int64(st.Blocks)*st.Bsize)
	}
	r.release(id)
	var st unix.Stat_t
	if err := unix.Stat(r.path("data/pool/volumes", id+".img"), &st); err != nil {
		t.Fatal(err)
	}
	if allocated := st.Blocks * 512; allocated > 64*mib {
		t.Errorf("an empty file system takes %d MiB", allocated/mib)
	}
}

func TestFullPool(t *testing.T) {
	r := newRig(t, "--pool-size=320Mi")
	id := r.volume("big", 1<<30, nil)
	device := r.use(id, block())
	file, err := os.OpenFile(device, os.O_WRONLY|unix.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data := random(11, mib)
	for offset := int64(0); err == nil; offset += mib {
		if offset >= 1<<30 {
			t.Fatal("1 GiB fits into a pool of 320 MiB")
		}
		_, err = file.WriteAt(data, offset)
	}
	capacity, err := r.GetCapacity(r.ctx(), &csi.GetCapacityRequest{})
	if err != nil || capacity.GetAvailableCapacity() > 8*mib {
		t.Errorf("capacity of a full pool: %v, %v", capacity, err)
	}
	for i := 0; err == nil && i < 2000; i++ { // a few records still fit, then the answer is honest
		_, err = r.CreateVolume(r.ctx(), createRequest(fmt.Sprint("small ", i), mib, nil))
	}
	r.wantCode(err, codes.ResourceExhausted)
	if left, _ := filepath.Glob(r.path("data/pool/tmp/*")); len(left) != 0 {
		t.Errorf("a refused volume leaves %v", left)
	}
}
