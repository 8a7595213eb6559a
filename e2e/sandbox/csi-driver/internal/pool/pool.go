// Package pool keeps the images of volumes and snapshots and what is known about them. It knows files, reflinks and
// records; nothing of CSI, and nothing of how a volume is used on the node.
//
// The pool is an XFS file system on a sparse file. In it:
//
//	volumes/<id>.img    the volume's bytes        volumes/<id>.json    its record
//	snapshots/<id>.img  the snapshot's bytes      snapshots/<id>.json  its record
//	tmp/                what is being made
//
// The record is the commit point: it appears after its image and goes before it. An image without a record is a leftover
// of a killed process and is swept when the pool is opened.
package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/sandbox/csi-driver/internal/fsimage"
	"holdfast.dev/sandbox/csi-driver/internal/loopdev"
	"holdfast.dev/sandbox/csi-driver/internal/mounts"
)

const (
	volumesDir   = "volumes"
	snapshotsDir = "snapshots"
	tmpDir       = "tmp"

	lockTimeout = 10 * time.Second
)

// Pool is an opened pool. Its methods may be called in parallel, but calls for the same id must not overlap.
type Pool struct {
	root string
	lock *os.File

	mutex     sync.Mutex
	volumes   map[string]Volume
	snapshots map[string]Snapshot
	lastTime  time.Time
}

// Open locks the data directory, makes or reuses its pool, mounts it and reads the records.
func Open(ctx context.Context, dataDir string, sizeBytes int64) (*Pool, error) {
	dataDir, err := resolve(dataDir)
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(ctx, dataDir)
	if err != nil {
		return nil, err
	}
	pool := &Pool{root: mountPoint(dataDir), lock: lock}
	err = pool.open(ctx, dataDir, sizeBytes)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return pool, nil
}

func (p *Pool) open(ctx context.Context, dataDir string, sizeBytes int64) error {
	image := imagePath(dataDir)
	if err := makePoolImage(ctx, image, sizeBytes); err != nil {
		return err
	}
	if err := mountPool(ctx, image, p.root); err != nil {
		return err
	}
	for _, dir := range []string{volumesDir, snapshotsDir, tmpDir} {
		if err := os.MkdirAll(filepath.Join(p.root, dir), 0o700); err != nil {
			return err
		}
	}
	if err := p.load(); err != nil {
		return err
	}
	return p.sweep(ctx)
}

// Close gives the data directory free for another process. The pool stays mounted for the volumes in use.
func (p *Pool) Close() error { return p.lock.Close() }

func imagePath(dataDir string) string  { return filepath.Join(dataDir, "pool.img") }
func mountPoint(dataDir string) string { return filepath.Join(dataDir, "pool") }

// resolve makes the directory and its path absolute and free of links, as the kernel will print it.
func resolve(dataDir string) (string, error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return "", err
	}
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dataDir)
}

// lockDir takes the directory's lock, waiting for a process that is just ending. The kernel frees it with the process.
func lockDir(ctx context.Context, dataDir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dataDir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dataDir, err), lock.Close())
		}
		select {
		case <-ctx.Done():
			owner, _ := os.ReadFile(lock.Name())
			err := fmt.Errorf("%s is in use by process %s", dataDir, strings.TrimSpace(string(owner)))
			return nil, errors.Join(err, lock.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
	// The process id is for people; the lock itself is what counts.
	if err := lock.Truncate(0); err == nil {
		_, err = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			return nil, errors.Join(err, lock.Close())
		}
	}
	return lock, nil
}

func makePoolImage(ctx context.Context, image string, sizeBytes int64) error {
	_, err := os.Stat(image)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// By rename, so that a process killed in mkfs does not leave half a pool.
	fresh := image + ".new"
	if err := makeSparse(fresh, sizeBytes); err != nil {
		return err
	}
	if err := fsimage.FormatPool(ctx, fresh); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return os.Rename(fresh, image)
}

func mountPool(ctx context.Context, image, root string) error {
	device, err := loopdev.Find(image)
	if err != nil {
		return err
	}
	var handle *os.File
	if device == nil {
		attached, held, err := loopdev.Attach(image, loopdev.Options{Autoclear: true})
		if err != nil {
			return err
		}
		if !attached.DirectIO {
			slog.Warn("no direct I/O below the pool: its data are cached twice", "image", image)
		}
		device, handle = &attached, held
	} else if handle, err = loopdev.Hold(*device, true); err != nil {
		return err
	}
	defer handle.Close()
	mounted, err := mounts.At(root)
	if err != nil {
		return err
	}
	if mounted != nil {
		if mounted.MajorMinor != device.MajorMinor() {
			return fmt.Errorf("%s is a mount of device %s, not of %s", root, mounted.MajorMinor, device.Path)
		}
		return nil
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	// discard: deleted volumes give their space back to the machine's disk.
	return mounts.Device(ctx, device.Path, root, fsimage.XFS, []string{"discard", "noatime"})
}

// sweep removes what a killed process has left: half-made files, images without records, devices of deleted images.
func (p *Pool) sweep(ctx context.Context) error {
	for _, dir := range []string{tmpDir, volumesDir, snapshotsDir} {
		entries, err := os.ReadDir(filepath.Join(p.root, dir))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if dir != tmpDir && p.known(dir, entry.Name()) {
				continue
			}
			slog.Info("sweep leftover", "file", filepath.Join(dir, entry.Name()))
			if err := os.Remove(filepath.Join(p.root, dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	prefix := p.root + "/"
	devices, err := loopdev.List(func(backingFile string) bool {
		return strings.HasPrefix(backingFile, prefix) && strings.HasSuffix(backingFile, " (deleted)")
	})
	for _, device := range devices {
		slog.Info("detach leftover", "device", device.Path, "file", device.BackingFile)
		if err := loopdev.Detach(ctx, device); err != nil {
			slog.Warn("leftover device stays until its users end", "error", err)
		}
	}
	return err
}

func (p *Pool) known(dir, file string) bool {
	id, isImage := strings.CutSuffix(file, ".img")
	if !isImage {
		id = strings.TrimSuffix(file, ".json")
	}
	if dir == volumesDir {
		_, ok := p.volumes[id]
		return ok
	}
	_, ok := p.snapshots[id]
	return ok
}

// FreeBytes is the space that the pool itself has left.
func (p *Pool) FreeBytes() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(p.root, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
