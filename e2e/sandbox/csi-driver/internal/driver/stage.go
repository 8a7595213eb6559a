package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/sandbox/csi-driver/internal/fsimage"
	"holdfast.dev/sandbox/csi-driver/internal/loopdev"
	"holdfast.dev/sandbox/csi-driver/internal/mounts"
	"holdfast.dev/sandbox/csi-driver/internal/pool"
)

func (n *node) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetStagingTargetPath() == "" {
		return nil, invalid("volume id or staging target path is missing")
	}
	if err := checkCapability(r.GetVolumeCapability()); err != nil {
		return nil, err
	}
	volume, unlock, err := n.lockVolume(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r.GetVolumeCapability().GetBlock() != nil {
		_, err = n.stageBlock(volume, readerOnly(r.GetVolumeCapability()))
	} else {
		err = n.stageFilesystem(ctx, volume, canonical(r.GetStagingTargetPath()), r.GetVolumeCapability())
	}
	if err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// stageBlock attaches the volume. The device must outlive its openers, so it is not autoclear.
func (n *node) stageBlock(volume pool.Volume, readOnly bool) (*loopdev.Device, error) {
	device, uses, err := n.attached(volume)
	if err != nil {
		return nil, err
	}
	if device == nil {
		fresh, handle, err := loopdev.Attach(n.Pool.VolumeImage(volume.ID), deviceOptions(readOnly, false))
		if err != nil {
			return nil, err
		}
		return &fresh, handle.Close()
	}
	if len(uses.filesystems) > 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %q is mounted at %s and cannot be used as a block device",
			volume.ID, uses.filesystems[0].Path)
	}
	if device.ReadOnly != readOnly {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %q is attached with read-only=%t", volume.ID, device.ReadOnly)
	}
	handle, err := loopdev.Hold(*device, false)
	if err != nil {
		return nil, err
	}
	return device, handle.Close()
}

func (n *node) stageFilesystem(ctx context.Context, volume pool.Volume, path string, capability *csi.VolumeCapability) error {
	device, uses, err := n.attached(volume)
	if err != nil {
		return err
	}
	if len(uses.nodes) > 0 {
		return status.Errorf(codes.FailedPrecondition, "volume %q is in use as a block device at %s", volume.ID, uses.nodes[0].Path)
	}
	if mounted, err := mounts.At(path); err != nil {
		return err
	} else if mounted != nil {
		return stagedAlready(volume, device, *mounted, capability.GetMount().GetFsType())
	}
	fsType, grow, err := n.prepareFilesystem(ctx, volume, device, capability.GetMount().GetFsType())
	if err != nil {
		return err
	}
	device, handle, err := n.holdForMount(volume)
	if err != nil {
		return err
	}
	// Autoclear: once mounted, the device goes with the last mount, also if the mounts are removed behind our back.
	defer handle.Close()
	if err := os.MkdirAll(path, 0o750); err != nil {
		return err
	}
	options := capability.GetMount().GetMountFlags()
	if readerOnly(capability) && !slices.Contains(options, "ro") {
		options = append(slices.Clone(options), "ro")
	}
	grow = grow && !slices.Contains(options, "ro")
	if grow && fsType == fsimage.Ext4 && len(uses.filesystems) == 0 {
		if err := fsimage.GrowUnmounted(ctx, device.Path); err != nil {
			return err
		}
	}
	if err := mounts.Device(ctx, device.Path, path, fsType, options); err != nil {
		if fsType == fsimage.XFS && !slices.Contains(options, "nouuid") {
			err = fmt.Errorf("%w (an XFS clone cannot be mounted beside its original without the mount option nouuid)", err)
		}
		return err
	}
	if grow && fsType == fsimage.XFS { // XFS grows mounted, and only so
		if err := fsimage.Grow(ctx, fsType, device.Path, path); err != nil {
			return errors.Join(err, mounts.Unmount(context.WithoutCancel(ctx), path))
		}
	}
	return nil
}

func deviceOptions(readOnly, autoclear bool) loopdev.Options {
	return loopdev.Options{
		ReadOnly: readOnly, Autoclear: autoclear, RequireDirectIO: true, SectorBytes: fsimage.SectorBytes,
	}
}

// stagedAlready answers a repeated call.
func stagedAlready(volume pool.Volume, device *loopdev.Device, mounted mounts.Mount, wanted string) error {
	if device == nil || mounted.MajorMinor != device.MajorMinor() {
		return status.Errorf(codes.FailedPrecondition, "%s is a mount of something else than volume %q", mounted.Path, volume.ID)
	}
	if wanted != "" && wanted != mounted.FSType {
		return status.Errorf(codes.AlreadyExists, "volume %q is staged as %s, not as %s", volume.ID, mounted.FSType, wanted)
	}
	return nil
}

// prepareFilesystem makes sure that there is a file system, and tells which, and whether it is smaller than its device.
// Only a device of nothing but zeroes is formatted.
func (n *node) prepareFilesystem(ctx context.Context, volume pool.Volume, device *loopdev.Device, wanted string) (string, bool, error) {
	image := n.Pool.VolumeImage(volume.ID)
	if device != nil {
		if err := loopdev.Flush(*device); err != nil {
			return "", false, err
		}
	}
	content, err := fsimage.Probe(image)
	if err != nil {
		return "", false, err
	}
	switch {
	case content.FSType != "" && wanted != "" && wanted != content.FSType:
		return "", false, status.Errorf(codes.FailedPrecondition, "volume %q holds %s, %s is asked for", volume.ID, content.FSType, wanted)
	case content.FSType != "":
		return content.FSType, content.SizeBytes < volume.SizeBytes, nil
	case !content.Blank:
		return "", false, status.Errorf(codes.FailedPrecondition,
			"volume %q holds data but neither ext4 nor xfs: not formatted, not mounted", volume.ID)
	}
	if wanted == "" {
		wanted = fsimage.Ext4
	}
	if wanted == fsimage.XFS && volume.SizeBytes < fsimage.MinXFSBytes {
		return "", false, status.Errorf(codes.FailedPrecondition, "volume %q is too small for XFS: %d bytes", volume.ID, volume.SizeBytes)
	}
	if device != nil { // left attached by a Block stage; formatting replaces the file
		if err := loopdev.Detach(ctx, *device); err != nil {
			return "", false, err
		}
	}
	slog.Info("format", "volume", volume.ID, "fsType", wanted)
	return wanted, false, n.Pool.FormatVolume(ctx, volume.ID, wanted)
}

// holdForMount attaches the volume, or takes the device it already has: a second device for the same file would have a
// second cache.
func (n *node) holdForMount(volume pool.Volume) (*loopdev.Device, *os.File, error) {
	image := n.Pool.VolumeImage(volume.ID)
	device, err := loopdev.Find(image)
	if err != nil {
		return nil, nil, err
	}
	if device == nil {
		fresh, handle, err := loopdev.Attach(image, deviceOptions(false, true))
		return &fresh, handle, err
	}
	if device.ReadOnly {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "volume %q is attached read-only as a block device", volume.ID)
	}
	if err := loopdev.SetCapacity(*device); err != nil { // the volume may have grown meanwhile
		return nil, nil, err
	}
	handle, err := loopdev.Hold(*device, true)
	return device, handle, err
}

func (n *node) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if r.GetVolumeId() == "" || r.GetStagingTargetPath() == "" {
		return nil, invalid("volume id or staging target path is missing")
	}
	path := canonical(r.GetStagingTargetPath())
	volume, unlock, err := n.lockVolume(ctx, r.GetVolumeId())
	if errors.Is(err, pool.ErrNotFound) { // deleted by force: whatever is mounted there still has to go
		return &csi.NodeUnstageVolumeResponse{}, mounts.Unmount(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	device, uses, err := n.attached(volume)
	if err != nil {
		return nil, err
	}
	for _, mount := range append(uses.filesystems, uses.nodes...) {
		if mount.Path != path {
			return nil, status.Errorf(codes.FailedPrecondition, "volume %q is still published at %s", volume.ID, mount.Path)
		}
	}
	if err := mounts.Unmount(ctx, path); err != nil {
		return nil, err
	}
	if device != nil {
		if err := loopdev.Detach(ctx, *device); err != nil {
			return nil, err
		}
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}
