package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast.dev/sandbox/csi-driver/internal/loopdev"
	"holdfast.dev/sandbox/csi-driver/internal/mounts"
)

// Cleanup unmounts everything that comes from a data directory's pool, wherever it is mounted, and detaches every loop
// device below it. Data stay. It is idempotent.
func Cleanup(ctx context.Context, dataDir string) error {
	if _, err := os.Stat(dataDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	dataDir, err := resolve(dataDir)
	if err != nil {
		return err
	}
	lock, err := lockDir(ctx, dataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	devices, err := devicesOf(dataDir)
	if err != nil {
		return err
	}
	// All mounts first, those of the last found devices before those of the first: a device is free once nothing above it is.
	var failed error
	for _, device := range slices.Backward(devices) {
		failed = errors.Join(failed, unmountAll(ctx, device))
		if err := loopdev.Detach(ctx, device); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		slog.Info("detached", "device", device.Path, "file", device.BackingFile)
	}
	return failed
}

// devicesOf returns the pool's device, then those of its volumes, then those that others put on top of these (the kubelet
// does so for Block volumes), each after what it stands on.
func devicesOf(dataDir string) ([]loopdev.Device, error) {
	all, err := loopdev.List(func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	var found []loopdev.Device
	take := func(belongs func(loopdev.Device) bool) {
		for _, device := range all {
			known := slices.ContainsFunc(found, func(d loopdev.Device) bool { return d.Dev == device.Dev })
			if !known && belongs(device) {
				found = append(found, device)
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(imagePath(dataDir), &st); err == nil {
		take(func(d loopdev.Device) bool { return d.BackingDev == st.Dev && d.BackingInode == st.Ino })
	}
	take(func(d loopdev.Device) bool { return strings.HasPrefix(d.BackingFile, imagePath(dataDir)) })
	prefix := mountPoint(dataDir) + "/"
	take(func(d loopdev.Device) bool { return strings.HasPrefix(d.BackingFile, prefix) })
	for known := -1; known < len(found); {
		known = len(found)
		take(func(d loopdev.Device) bool {
			return slices.ContainsFunc(found, func(below loopdev.Device) bool {
				return d.BackingDev == below.Dev || d.BackingRdev == below.Dev
			})
		})
	}
	return found, nil
}

// unmountAll undoes the mounts of a device's file system and of its bind-mounted node, newest first.
func unmountAll(ctx context.Context, device loopdev.Device) error {
	list, err := mounts.List()
	if err != nil {
		return err
	}
	var failed error
	for _, mount := range slices.Backward(list) {
		if mount.MajorMinor != device.MajorMinor() && mount.NodeDev() != device.Dev {
			continue
		}
		err := mounts.Unmount(ctx, mount.Path)
		if errors.Is(err, unix.EBUSY) {
			slog.Warn("mount is busy, detaching it lazily", "path", mount.Path)
			err = unix.Unmount(mount.Path, unix.MNT_DETACH)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("unmount %s: %w", mount.Path, err))
			continue
		}
		slog.Info("unmounted", "path", mount.Path)
	}
	return failed
}
