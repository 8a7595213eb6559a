package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"holdfast.dev/sandbox/csi-driver/internal/fsimage"
	"holdfast.dev/sandbox/csi-driver/internal/loopdev"
)

// VolumeImage is the path of a volume's bytes.
func (p *Pool) VolumeImage(id string) string { return p.imagePath(volumesDir, id) }

// CreateVolume makes an empty volume, or one from a snapshot or volume named in the record. A size larger than the
// source leaves zeroes behind the source's bytes. Id and creation time are set here.
func (p *Pool) CreateVolume(volume Volume) (Volume, error) {
	volume.ID = NewID("vol-")
	volume.CreatedAt = p.now()
	fresh := filepath.Join(p.root, tmpDir, volume.ID+".img")
	var err error
	switch {
	case volume.FromSnapshot != "":
		err = clone(p.imagePath(snapshotsDir, volume.FromSnapshot), fresh, volume.SizeBytes)
	case volume.FromVolume != "":
		err = p.cloneVolume(volume.FromVolume, fresh, volume.SizeBytes)
	default:
		err = makeSparse(fresh, volume.SizeBytes)
	}
	if err == nil {
		err = p.commit(volumesDir, volume.ID, fresh, volume)
	}
	if err != nil {
		return Volume{}, fmt.Errorf("create volume %q: %w", volume.Name, err)
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.volumes[volume.ID] = volume
	return volume, nil
}

// CreateSnapshot clones a volume as it is at this moment.
func (p *Pool) CreateSnapshot(snapshot Snapshot) (Snapshot, error) {
	snapshot.ID = NewID("snap-")
	snapshot.CreatedAt = p.now()
	fresh := filepath.Join(p.root, tmpDir, snapshot.ID+".img")
	err := p.cloneVolume(snapshot.SourceVolumeID, fresh, snapshot.SizeBytes)
	if err == nil {
		err = p.commit(snapshotsDir, snapshot.ID, fresh, snapshot)
	}
	if err != nil {
		return Snapshot{}, fmt.Errorf("create snapshot %q: %w", snapshot.Name, err)
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.snapshots[snapshot.ID] = snapshot
	return snapshot, nil
}

// DeleteVolume removes a volume. Unknown ids are no error.
func (p *Pool) DeleteVolume(id string) error {
	if err := p.remove(volumesDir, id); err != nil {
		return fmt.Errorf("delete volume %q: %w", id, err)
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	delete(p.volumes, id)
	return nil
}

// DeleteSnapshot removes a snapshot. Unknown ids are no error.
func (p *Pool) DeleteSnapshot(id string) error {
	if err := p.remove(snapshotsDir, id); err != nil {
		return fmt.Errorf("delete snapshot %q: %w", id, err)
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	delete(p.snapshots, id)
	return nil
}

// ExpandVolume makes a volume larger; the new part reads as zeroes.
func (p *Pool) ExpandVolume(id string, sizeBytes int64) (Volume, error) {
	volume, err := p.Volume(id)
	if err != nil {
		return Volume{}, err
	}
	// The file before the record: a crash between them leaves a longer file, and the call is repeated.
	if err := os.Truncate(p.VolumeImage(id), sizeBytes); err != nil {
		return Volume{}, fmt.Errorf("expand volume %q: %w", id, err)
	}
	volume.SizeBytes = sizeBytes
	if err := p.writeRecord(volumesDir, id, volume); err != nil {
		return Volume{}, fmt.Errorf("expand volume %q: %w", id, err)
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.volumes[id] = volume
	return volume, nil
}

// FormatVolume gives a blank volume a file system. The volume must not be attached: its image is replaced by another
// file, so that a crash leaves it blank or formatted and nothing between.
func (p *Pool) FormatVolume(ctx context.Context, id, fsType string) error {
	volume, err := p.Volume(id)
	if err != nil {
		return err
	}
	// A new name each time: the mkfs of a killed driver may still be running.
	fresh := filepath.Join(p.root, tmpDir, NewID(id+"-")+".img")
	err = makeSparse(fresh, volume.SizeBytes)
	if err == nil {
		err = fsimage.Format(ctx, fresh, fsType)
	}
	if err == nil {
		err = p.place(fresh, volumesDir, id)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("format volume %q: %w", id, err), removeIfThere(fresh))
	}
	return nil
}

// commit puts a finished image in place, then its record.
func (p *Pool) commit(dir, id, fresh string, record any) error {
	err := p.place(fresh, dir, id)
	if err == nil {
		err = p.writeRecord(dir, id, record)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(fresh), p.remove(dir, id))
	}
	return nil
}

func (p *Pool) place(fresh, dir, id string) error {
	file, err := os.OpenFile(fresh, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, p.imagePath(dir, id)); err != nil {
		return err
	}
	return p.syncDir(dir)
}

// cloneVolume first writes back what the volume's device still caches.
func (p *Pool) cloneVolume(id, target string, sizeBytes int64) error {
	image := p.VolumeImage(id)
	device, err := loopdev.Find(image)
	if err != nil {
		return err
	}
	if device != nil {
		if err := loopdev.Flush(*device); err != nil {
			return err
		}
	}
	return clone(image, target, sizeBytes)
}

// clone shares all blocks of source with a new file. The kernel holds off writes to source meanwhile: the clone is
// one moment of it.
func clone(source, target string, sizeBytes int64) error {
	from, err := os.Open(source)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(target, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
	if err == nil {
		err = to.Truncate(sizeBytes)
	}
	if err = errors.Join(err, to.Close()); err != nil {
		return errors.Join(fmt.Errorf("clone %s: %w", source, err), os.Remove(target))
	}
	return nil
}

func makeSparse(path string, sizeBytes int64) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate(sizeBytes), file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
