// A predicted skeleton in space, turned by mouse, finger or arrow keys. Coordinates are those of the image: x right, y down, z away from the viewer.
import {colour} from './theme.js';

const TURN = 0.01;
const KEY_TURN = Math.PI / 24;
const LEFT = '#ff9f43';
const RIGHT = '#48beff';

export class Skeleton {
  constructor(canvas) {
    this.canvas = canvas;
    this.person = null;
    this.home();
    canvas.addEventListener('pointerdown', (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener('pointermove', (event) => {
      if (event.buttons) this.turn(event.movementX * TURN, event.movementY * TURN);
    });
    canvas.addEventListener('keydown', (event) => {
      const by = {ArrowLeft: [-KEY_TURN, 0], ArrowRight: [KEY_TURN, 0], ArrowUp: [0, -KEY_TURN], ArrowDown: [0, KEY_TURN]}[event.key];
      if (event.key === 'Home') this.home();
      else if (by) this.turn(...by);
      else return;
      event.preventDefault();
    });
  }

  home() {
    this.yaw = 0;
    this.pitch = 0;
    this.draw();
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, this.pitch + pitch));
    this.draw();
  }

  // names: of joints; edges: [[from, to]]; joints: [[x, y, z] or null]
  show(names, edges, joints, title) {
    const known = joints.filter(Boolean);
    if (!known.length) {
      this.person = null;
    } else {
      const middle = [0, 1, 2].map((k) => known.reduce((sum, p) => sum + p[k], 0) / known.length);
      const radius = Math.max(...known.map((p) => Math.hypot(...p.map((c, k) => c - middle[k]))), 1e-6);
      this.person = {names, edges, joints: joints.map((p) => p && p.map((c, k) => (c - middle[k]) / radius))};
    }
    this.canvas.setAttribute('aria-label', `Predicted skeleton in space of ${title}: ${known.length} of ${joints.length} joints. Arrow keys turn it.`);
    this.draw();
  }

  project([x, y, z]) {
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const turned = [x * cy + z * sy, z * cy - x * sy];
    return [turned[0], y * cp + turned[1] * sp, turned[1] * cp - y * sp];
  }

  draw() {
    const {canvas} = this;
    const context = canvas.getContext('2d');
    const side = canvas.width;
    context.clearRect(0, 0, side, side);
    if (!this.person) {
      context.fillStyle = colour('muted');
      context.fillText('no joint was answered', 20, 30);
      return;
    }
    const {names, edges, joints} = this.person;
    const places = joints.map((p) => p && this.project(p));
    const at = (p) => [side / 2 + p[0] * side * 0.44, side / 2 + p[1] * side * 0.44];
    const paint = (...which) => {
      const name = which.map((j) => names[j]).find((n) => /^(left|right)_/.test(n));
      return name ? (name.startsWith('left') ? LEFT : RIGHT) : colour('green');
    };
    // Far limbs first, so that near ones cross over them; near ones are thicker.
    const drawn = edges.filter(([a, b]) => places[a] && places[b]).map(([a, b]) => ({a, b, z: (places[a][2] + places[b][2]) / 2})).sort((p, q) => q.z - p.z);
    context.lineCap = 'round';
    for (const {a, b, z} of drawn) {
      context.strokeStyle = paint(b, a);
      context.lineWidth = 4.5 - 2 * z;
      context.beginPath();
      context.moveTo(...at(places[a]));
      context.lineTo(...at(places[b]));
      context.stroke();
    }
    places.forEach((place, j) => {
      if (!place) return;
      context.fillStyle = paint(j);
      context.beginPath();
      context.arc(...at(place), 4 - 1.2 * place[2], 0, 2 * Math.PI);
      context.fill();
    });
  }
}
